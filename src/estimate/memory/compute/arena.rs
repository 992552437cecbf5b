//! The memory that a computation takes, as ggml's allocator gives it out: `ggml-alloc.c`,
//! whose way of choosing blocks decides how much is lost between them.

use super::graph::{Graph, Id, Origin, Tensor};

/// Addresses are multiples of this on a CPU (`TENSOR_ALIGNMENT`).
const ALIGNMENT: u64 = 32;

#[derive(Debug, Clone, Copy)]
struct Block {
    start: u64,
    bytes: u64,
}

impl Block {
    fn end(self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// Free blocks by address; the last one has no end, and is never taken whole. What is larger than all addresses ends
/// with them: it fits nowhere.
#[derive(Debug)]
struct Arena {
    free: Vec<Block>,
    highest: u64,
}

impl Arena {
    fn new() -> Self {
        Self { free: vec![Block { start: 0, bytes: u64::MAX / 2 }], highest: 0 }
    }

    /// Takes the smallest block that is large enough, the last one of equals, and the endless
    /// one only if there is no other.
    fn take(&mut self, bytes: u64) -> u64 {
        let bytes = aligned(bytes);
        let last = self.free.len() - 1;
        let fitting = (0..last).rev().filter(|&at| self.free[at].bytes >= bytes);
        let at = fitting.min_by_key(|&at| self.free[at].bytes).unwrap_or(last);
        let block = &mut self.free[at];
        let start = block.start;
        let end = start.saturating_add(bytes);
        block.start = end;
        block.bytes = block.bytes.saturating_sub(bytes);
        if block.bytes == 0 && at != last {
            self.free.remove(at);
        }
        self.highest = self.highest.max(end);
        start
    }

    fn give_back(&mut self, start: u64, bytes: u64) {
        let given = Block { start, bytes: aligned(bytes) };
        let after = self.free.partition_point(|block| block.start < start);
        let joins_before = after > 0 && self.free[after - 1].end() == start;
        let joins_after = self.free.get(after).is_some_and(|block| given.end() == block.start);
        let with = |bytes: u64| bytes.saturating_add(given.bytes);
        match (joins_before, joins_after) {
            (true, true) => {
                let next = self.free.remove(after);
                self.free[after - 1].bytes = with(self.free[after - 1].bytes).saturating_add(next.bytes);
            }
            (true, false) => self.free[after - 1].bytes = with(self.free[after - 1].bytes),
            (false, true) => {
                self.free[after] = Block { start, bytes: with(self.free[after].bytes) };
            }
            (false, false) => self.free.insert(after, given),
        }
    }
}

fn aligned(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX)
}

/// What the allocator knows of a tensor while it goes through the graph.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    /// Operations that read it and are not done.
    readers: usize,
    /// Views of it that are in use.
    views: usize,
    /// Where it lies, while it has memory here.
    start: Option<u64>,
}

struct Allocation<'a> {
    graph: &'a Graph,
    arena: Arena,
    states: Vec<State>,
}

/// Returns the bytes of the buffer that `graph` is computed in (`ggml_gallocr_reserve`).
pub(super) fn buffer(graph: &Graph) -> u64 {
    let mut allocation =
        Allocation { graph, arena: Arena::new(), states: vec![State::default(); graph.len()] };
    allocation.run();
    allocation.arena.highest
}

impl Allocation<'_> {
    fn run(&mut self) {
        let graph = self.graph;
        for &leaf in &graph.leaves {
            self.place(leaf);
        }
        for &node in &graph.nodes {
            let tensor = graph.tensor(node);
            if let Some(base) = tensor.view_of {
                self.states[base.0].views += 1;
            }
            for source in sources(tensor) {
                self.states[source.0].readers += 1;
            }
        }
        for &node in &graph.nodes {
            self.place(node);
            for source in sources(graph.tensor(node)) {
                self.done_with(source);
            }
        }
    }

    fn place(&mut self, id: Id) {
        let tensor = self.graph.tensor(id);
        let is_elsewhere = tensor.origin == Origin::Held || tensor.view_of.is_some();
        if is_elsewhere || self.states[id.0].start.is_some() {
            return;
        }
        let over = sources(tensor).find(|&source| tensor.may_overwrite && self.is_last_use(tensor, source));
        let start = match over {
            Some(source) => self.states[source.0].start.take(),
            None => None,
        };
        self.states[id.0].start = start.or_else(|| Some(self.arena.take(tensor.bytes())));
    }

    /// Whether nothing but `tensor` needs the memory of `source` any more, and fits into it.
    fn is_last_use(&self, tensor: &Tensor, source: Id) -> bool {
        let state = self.states[source.0];
        let other = self.graph.tensor(source);
        state.start.is_some()
            && !other.is_output
            && tensor.is_same_layout(other)
            && state.readers == 1
            && state.views == 0
    }

    fn done_with(&mut self, source: Id) {
        let state = &mut self.states[source.0];
        state.readers -= 1;
        if state.readers > 0 || state.views > 0 {
            return;
        }
        match self.graph.tensor(source).view_of {
            Some(base) => {
                let state = &mut self.states[base.0];
                state.views -= 1;
                if state.views == 0 && state.readers == 0 {
                    self.free(base);
                }
            }
            None => self.free(source),
        }
    }

    fn free(&mut self, id: Id) {
        let tensor = self.graph.tensor(id);
        if tensor.is_output {
            return;
        }
        if let Some(start) = self.states[id.0].start.take() {
            self.arena.give_back(start, tensor.bytes());
        }
    }
}

fn sources(tensor: &Tensor) -> impl Iterator<Item = Id> + use<> {
    tensor.sources.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::super::graph::Element;
    use super::*;

    #[test]
    fn the_smallest_hole_is_taken_and_neighbours_join() {
        let mut arena = Arena::new();
        let starts = [96, 32, 64, 32, 32].map(|bytes| arena.take(bytes));
        assert_eq!(starts, [0, 96, 128, 192, 224]);
        arena.give_back(0, 96);
        arena.give_back(128, 64);
        assert_eq!(arena.take(40), 128, "the hole of 64, not that of 96");
        arena.give_back(128, 40);
        arena.give_back(96, 32);
        assert_eq!(arena.take(192), 0, "three that join");
        assert_eq!(arena.highest, 256);
    }

    #[test]
    fn what_is_larger_than_all_addresses_ends_with_them() {
        let mut arena = Arena::new();
        let sizes = [1 << 63, 1 << 63, u64::MAX, 32];
        let starts = sizes.map(|bytes| arena.take(bytes));
        assert_eq!(starts, [0, 1 << 63, u64::MAX, u64::MAX]);
        assert_eq!(arena.highest, u64::MAX);
        for (start, bytes) in starts.into_iter().zip(sizes) {
            arena.give_back(start, bytes);
        }
        assert_eq!((arena.free.len(), arena.take(64), arena.take(64)), (1, 0, 64));
    }

    #[test]
    fn a_result_lies_over_its_source_only_if_nobody_else_reads_it() {
        let size = |is_shared: bool| {
            let mut graph = Graph::default();
            let input = graph.input(Element::F32, [64, 1, 1, 1]);
            let sum = graph.overwriting(&[input]);
            let end = if is_shared { graph.overwriting(&[sum, input]) } else { graph.overwriting(&[sum]) };
            graph.output(end);
            graph.expand(end);
            buffer(&graph)
        };
        assert_eq!((size(false), size(true)), (256, 512));
    }

    #[test]
    fn what_is_never_read_is_never_given_back() {
        let mut graph = Graph::default();
        let input = graph.input(Element::F32, [8, 1, 1, 1]);
        let unread = graph.node(Element::F32, [8, 1, 1, 1], &[input]);
        let end = graph.node(Element::F32, [8, 1, 1, 1], &[input]);
        graph.expand(unread);
        graph.expand(end);
        assert_eq!(buffer(&graph), 96);
    }
}

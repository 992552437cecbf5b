//! A computation as ggml plans it: which tensors there are, who reads whom, who lies in whose
//! memory. The numbers in them are of no interest here.

/// What one element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
    I32,
    I64,
}

impl Element {
    fn bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }
}

/// Elements by dimension, the row's length first; those that are not there are 1.
pub(super) type Sides = [u64; 4];

/// Returns how many elements there are in all.
pub(super) fn elements(sides: Sides) -> u64 {
    sides.into_iter().fold(1, u64::saturating_mul)
}

/// A tensor of a [`Graph`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(pub(super) usize);

/// Where a tensor's numbers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Weights, keys and values: they have memory of their own.
    Held,
    /// Filled in before the computation.
    Input,
    /// Computed.
    Node,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Tensor {
    pub(super) element: Element,
    pub(super) sides: Sides,
    pub(super) origin: Origin,
    /// What it is computed from, in ggml's order.
    pub(super) sources: [Option<Id>; 4],
    /// The tensor whose memory it lies in; never a view itself.
    pub(super) view_of: Option<Id>,
    /// Whether its operation may write over a source of the same layout
    /// (`ggml_op_can_inplace`).
    pub(super) may_overwrite: bool,
    /// Whether it is read after the computation, so that its memory is never given back.
    pub(super) is_output: bool,
    /// Whether its elements lie one after the other.
    pub(super) is_whole: bool,
}

impl Tensor {
    pub(super) fn bytes(&self) -> u64 {
        elements(self.sides).saturating_mul(self.element.bytes())
    }

    /// Whether `other` could lie in its place. Only tensors with memory of their own are
    /// compared, and these are whole.
    pub(super) fn is_same_layout(&self, other: &Self) -> bool {
        self.element == other.element && self.sides == other.sides
    }
}

/// Tensors, and the order in which they are computed.
#[derive(Debug, Default)]
pub(super) struct Graph {
    tensors: Vec<Tensor>,
    is_seen: Vec<bool>,
    /// Those that are not computed, in the order in which they are met.
    pub(super) leaves: Vec<Id>,
    /// Those that are computed, in order.
    pub(super) nodes: Vec<Id>,
}

impl Graph {
    pub(super) fn tensor(&self, id: Id) -> &Tensor {
        &self.tensors[id.0]
    }

    pub(super) fn len(&self) -> usize {
        self.tensors.len()
    }

    pub(super) fn sides(&self, id: Id) -> Sides {
        self.tensors[id.0].sides
    }

    fn add(&mut self, tensor: Tensor) -> Id {
        self.tensors.push(tensor);
        self.is_seen.push(false);
        Id(self.tensors.len() - 1)
    }

    fn leaf(&mut self, origin: Origin, element: Element, sides: Sides) -> Id {
        self.add(Tensor {
            element,
            sides,
            origin,
            sources: [None; 4],
            view_of: None,
            may_overwrite: false,
            is_output: false,
            is_whole: true,
        })
    }

    /// Adds weights, or keys or values. Their type does not matter: nothing is laid over them.
    pub(super) fn held(&mut self, sides: Sides) -> Id {
        self.leaf(Origin::Held, Element::F32, sides)
    }

    /// Adds numbers that are filled in.
    pub(super) fn input(&mut self, element: Element, sides: Sides) -> Id {
        self.leaf(Origin::Input, element, sides)
    }

    /// Adds the result of an operation that has memory of its own.
    pub(super) fn node(&mut self, element: Element, sides: Sides, sources: &[Id]) -> Id {
        let mut all = [None; 4];
        for (place, source) in all.iter_mut().zip(sources) {
            *place = Some(*source);
        }
        self.add(Tensor {
            element,
            sides,
            origin: Origin::Node,
            sources: all,
            view_of: None,
            may_overwrite: false,
            is_output: false,
            is_whole: true,
        })
    }

    /// Adds the result of an operation that may write over a source.
    pub(super) fn overwriting(&mut self, sources: &[Id]) -> Id {
        let first = self.tensors[sources[0].0];
        let id = self.node(first.element, first.sides, sources);
        self.tensors[id.0].may_overwrite = true;
        id
    }

    /// Adds a view of `of` with other sides; it is whole where `of` is and all of it is seen.
    pub(super) fn view(&mut self, of: Id, sides: Sides) -> Id {
        let source = self.tensors[of.0];
        let is_all = elements(sides) == elements(source.sides);
        self.viewing(of, sides, &[of], source.is_whole && is_all)
    }

    /// Adds a view whose dimensions are exchanged.
    pub(super) fn turned(&mut self, of: Id, sides: Sides) -> Id {
        self.viewing(of, sides, &[of], false)
    }

    /// Adds a view of `of` that `sources` write into.
    pub(super) fn written(&mut self, of: Id, sources: &[Id]) -> Id {
        let Tensor { sides, is_whole, .. } = self.tensors[of.0];
        self.viewing(of, sides, sources, is_whole)
    }

    fn viewing(&mut self, of: Id, sides: Sides, sources: &[Id], is_whole: bool) -> Id {
        let base = self.tensors[of.0];
        let id = self.node(base.element, sides, sources);
        let tensor = &mut self.tensors[id.0];
        tensor.view_of = base.view_of.or(Some(of));
        tensor.is_whole = is_whole;
        id
    }

    /// Says that `id` is read after the computation.
    pub(super) fn output(&mut self, id: Id) {
        self.tensors[id.0].is_output = true;
    }

    /// Puts `id` in order, after all that it is computed from (`ggml_build_forward_expand`).
    pub(super) fn expand(&mut self, id: Id) {
        if std::mem::replace(&mut self.is_seen[id.0], true) {
            return;
        }
        let tensor = self.tensors[id.0];
        for source in tensor.sources.into_iter().flatten() {
            self.expand(source);
        }
        match tensor.origin {
            Origin::Held | Origin::Input => self.leaves.push(id),
            Origin::Node => self.nodes.push(id),
        }
    }
}

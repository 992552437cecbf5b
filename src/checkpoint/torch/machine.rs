//! The machine that runs pickles: the operations that torch writes, each bounded.

use std::collections::HashMap;

use super::pickle::{Global, Id, Node, OPERATIONS_LIMIT, Stop, View, refused, text};
use crate::checkpoint::Error;

/// How deep values are nested. A tensor in a dict comes to 4.
const DEPTH_LIMIT: u16 = 32;

/// Real tensors have up to five dimensions.
const DIMENSIONS_LIMIT: usize = 8;

/// The longest name that a pickle may look up.
const GLOBAL_LIMIT: usize = 200;

/// A pickle while it runs.
#[derive(Default)]
pub(super) struct Machine<'a> {
    input: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    depths: Vec<u16>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Operations so far, and the values that they went over.
    spent: usize,
}

impl<'a> Machine<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { input, ..Self::default() }
    }

    /// Returns the values, and how long the pickle was.
    pub(super) fn finish(self) -> (Vec<Node>, usize) {
        (self.nodes, self.at)
    }

    /// Runs one operation; returns the value at the end of the pickle.
    pub(super) fn step(&mut self) -> Result<Option<Id>, Stop> {
        self.spend(1)?;
        let at = self.at;
        match self.byte()? {
            // PROTO: torch writes 2; 3 has no more operations that matter
            0x80 => match self.byte()? {
                2 | 3 => {}
                other => return Err(refused(format!("it has protocol {other}, not 2"))),
            },
            b'.' => return self.pop().map(Some),
            b'(' => {
                if self.marks.len() >= usize::from(DEPTH_LIMIT) {
                    return Err(too_deep());
                }
                self.marks.push(self.stack.len());
            }
            // constants
            b'N' => self.push(Node::None)?,
            0x88 => self.push(Node::Bool(true))?,
            0x89 => self.push(Node::Bool(false))?,
            b'J' => {
                let four = i32::from_le_bytes(self.array()?);
                self.push(Node::Int(four.into()))?;
            }
            b'K' => {
                let one = self.byte()?;
                self.push(Node::Int(one.into()))?;
            }
            b'M' => {
                let two = u16::from_le_bytes(self.array()?);
                self.push(Node::Int(two.into()))?;
            }
            0x8a => self.long()?,
            // with X those of Python 2
            b'X' | b'T' => {
                let len = u32::from_le_bytes(self.array()?);
                self.push_text(len)?;
            }
            b'U' => {
                let len = self.byte()?;
                self.push_text(len.into())?;
            }
            // containers
            b')' => self.push(Node::Tuple(Vec::new()))?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let count = self.unmark()?;
                self.tuple(count)?;
            }
            b']' => self.push(Node::List(Vec::new()))?,
            b'}' => self.push(Node::Dict(Vec::new()))?,
            b'a' => self.append(1)?,
            b'e' => {
                let count = self.unmark()?;
                self.append(count)?;
            }
            b's' => self.set(2)?,
            b'u' => {
                let count = self.unmark()?;
                self.set(count)?;
            }
            // the memo
            b'q' => {
                let index = self.byte()?.into();
                self.remember(index)?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.array()?);
                self.remember(index)?;
            }
            b'h' => {
                let index = self.byte()?.into();
                self.recall(index)?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.array()?);
                self.recall(index)?;
            }
            // objects
            b'c' => self.global()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            b'Q' => self.persistent()?,
            other => return Err(refused(format!("it has operation {other:#04x} at {at}"))),
        }
        Ok(None)
    }

    fn spend(&mut self, operations: usize) -> Result<(), Stop> {
        self.spent = self.spent.saturating_add(operations);
        if self.spent > OPERATIONS_LIMIT {
            return Err(refused(format!("it has more than {OPERATIONS_LIMIT} operations")));
        }
        Ok(())
    }

    /// Counts the values of a container that are gone over: it is there once, and may be named again
    /// by every operation.
    fn spend_on(&mut self, container: Id) -> Result<(), Stop> {
        let values = match self.node(container) {
            Node::Tuple(items) | Node::List(items) => items.len(),
            Node::Dict(pairs) => pairs.len(),
            _ => 0,
        };
        self.spend(values)
    }

    fn take(&mut self, len: usize) -> Result<&[u8], Stop> {
        let end = self.at.checked_add(len).ok_or(Stop::Short)?;
        let taken = self.input.get(self.at..end).ok_or(Stop::Short)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        self.take(N)?.first_chunk::<N>().copied().ok_or(Stop::Short)
    }

    fn byte(&mut self) -> Result<u8, Stop> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn push(&mut self, node: Node) -> Result<(), Stop> {
        self.push_deep(node, 0)
    }

    fn push_deep(&mut self, node: Node, depth: u16) -> Result<(), Stop> {
        if depth > DEPTH_LIMIT {
            return Err(too_deep());
        }
        // below OPERATIONS_LIMIT, since each operation makes one
        let id = u32::try_from(self.nodes.len()).map_err(|_| refused("it has too many values".to_owned()))?;
        self.nodes.push(node);
        self.depths.push(depth);
        self.stack.push(id);
        Ok(())
    }

    fn push_text(&mut self, len: u32) -> Result<(), Stop> {
        let from = self.at;
        let len = usize::try_from(len).map_err(|_| Stop::Short)?;
        if std::str::from_utf8(self.take(len)?).is_err() {
            return Err(refused(format!("the text at {from} is not UTF-8")));
        }
        self.push(Node::Text((from, from + len)))
    }

    /// Whole numbers of up to 8 bytes: no length or stride has more.
    fn long(&mut self) -> Result<(), Stop> {
        let len = usize::from(self.byte()?);
        let bytes = self.take(len)?;
        let Some(top) = bytes.last().filter(|_| len <= 8) else {
            return if len == 0 {
                self.push(Node::Int(0))
            } else {
                Err(refused(format!("it has a number of {len} bytes")))
            };
        };
        let mut eight = [if top & 0x80 == 0 { 0 } else { 0xff }; 8];
        for (to, from) in eight.iter_mut().zip(bytes) {
            *to = *from;
        }
        self.push(Node::Int(i64::from_le_bytes(eight)))
    }

    fn pop(&mut self) -> Result<Id, Stop> {
        // what is below a mark is not for operations above it
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(damaged("takes a value that is not there"));
        }
        self.stack.pop().ok_or_else(|| damaged("takes a value that is not there"))
    }

    /// Takes values from the top of the stack, the lowest first.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, Stop> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let from = self.stack.len().checked_sub(count).filter(|from| *from >= floor);
        let from = from.ok_or_else(|| damaged("takes values that are not there"))?;
        Ok(self.stack.split_off(from))
    }

    /// Removes the last mark; returns how many values stand above it.
    fn unmark(&mut self) -> Result<usize, Stop> {
        let mark = self.marks.pop().ok_or_else(|| damaged("takes a mark that is not there"))?;
        // pop keeps the stack above every mark
        Ok(self.stack.len().saturating_sub(mark))
    }

    fn top(&self) -> Result<Id, Stop> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.last().filter(|_| self.stack.len() > floor);
        top.copied().ok_or_else(|| damaged("looks at a value that is not there"))
    }

    fn node(&self, id: Id) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&Node::None)
    }

    fn depth_over(&self, ids: &[Id]) -> u16 {
        let depth = ids.iter().filter_map(|id| self.depths.get(*id as usize)).max();
        depth.map_or(0, |depth| depth + 1)
    }

    fn tuple(&mut self, count: usize) -> Result<(), Stop> {
        let items = self.pop_many(count)?;
        let depth = self.depth_over(&items);
        self.push_deep(Node::Tuple(items), depth)
    }

    /// Notes that the container at the top got these values.
    fn deepen(&mut self, container: Id, items: &[Id]) -> Result<(), Stop> {
        let depth = self.depth_over(items);
        if depth > DEPTH_LIMIT {
            return Err(too_deep());
        }
        if let Some(known) = self.depths.get_mut(container as usize) {
            *known = depth.max(*known);
        }
        Ok(())
    }

    fn append(&mut self, count: usize) -> Result<(), Stop> {
        let new = self.pop_many(count)?;
        let list = self.top()?;
        self.deepen(list, &new)?;
        match self.nodes.get_mut(list as usize) {
            Some(Node::List(items)) => items.extend(new),
            _ => return Err(damaged("appends to what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, count: usize) -> Result<(), Stop> {
        let new = self.pop_many(count)?;
        let (pairs, []) = new.as_chunks::<2>() else {
            return Err(damaged("has a key without a value"));
        };
        let dict = self.top()?;
        self.deepen(dict, &new)?;
        match self.nodes.get_mut(dict as usize) {
            Some(Node::Dict(known)) => known.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            _ => return Err(damaged("sets keys of what is no dict")),
        }
        Ok(())
    }

    fn remember(&mut self, index: u32) -> Result<(), Stop> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), Stop> {
        let id = self.memo.get(&index).copied();
        self.stack.push(id.ok_or_else(|| damaged("recalls what it has not remembered"))?);
        Ok(())
    }

    fn global(&mut self) -> Result<(), Stop> {
        let module = self.line()?;
        let name = self.line()?;
        match Global::find(&module, &name) {
            Some(global) => self.push(Node::Global(global)),
            None => Err(refused(format!("it wants {:?}, which no tensor needs", format!("{module}.{name}")))),
        }
    }

    fn line(&mut self) -> Result<String, Stop> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let window = rest.get(..rest.len().min(GLOBAL_LIMIT)).unwrap_or_default();
        let Some(len) = window.iter().position(|byte| *byte == b'\n') else {
            let is_short = window.len() < GLOBAL_LIMIT;
            return Err(if is_short {
                Stop::Short
            } else {
                refused("it wants a name without end".to_owned())
            });
        };
        self.at += len + 1;
        Ok(String::from_utf8_lossy(window.get(..len).unwrap_or_default()).into_owned())
    }

    /// Calls, where what is called is one of the names that are known.
    fn reduce(&mut self) -> Result<(), Stop> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        self.spend_on(arguments)?;
        let (Node::Global(global), Node::Tuple(arguments)) = (self.node(callee), self.node(arguments)) else {
            return Err(damaged("calls what is no name"));
        };
        match (global, arguments.as_slice()) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::OrderedDict, [pairs]) => self.dict_of_pairs(*pairs),
            (Global::RebuildParameter, [tensor, _, _]) if matches!(self.node(*tensor), Node::Tensor(_)) => {
                self.stack.push(*tensor);
                Ok(())
            }
            (Global::RebuildTensor, [storage, offset, shape, strides, _, _, more @ ..]) => {
                // the last may carry a conjugate or negative bit, which would change values
                let is_plain = more.iter().all(|id| match self.node(*id) {
                    Node::None => true,
                    Node::Dict(pairs) => pairs.is_empty(),
                    _ => false,
                });
                if !is_plain {
                    return Err(refused("it marks a tensor in a way that is not known".to_owned()));
                }
                let (storage, offset) = (*storage, self.size(*offset)?);
                let (shape, strides) = (self.sizes(*shape)?, self.sizes(*strides)?);
                if shape.len() != strides.len() || !matches!(self.node(storage), Node::Storage { .. }) {
                    return Err(damaged("has a tensor without a storage or strides"));
                }
                self.push(Node::Tensor(Box::new(View { storage, offset, shape, strides })))
            }
            (global, arguments) => {
                Err(damaged(&format!("calls {global:?} with {} arguments", arguments.len())))
            }
        }
    }

    /// An ordered dict as Python 2 pickles it: from a list of pairs.
    fn dict_of_pairs(&mut self, list: Id) -> Result<(), Stop> {
        self.spend_on(list)?;
        let Node::List(items) = self.node(list) else {
            return Err(damaged("makes a dict of what is no list"));
        };
        let pair = |item: &Id| match self.node(*item) {
            Node::List(pair) | Node::Tuple(pair) => match pair.as_slice() {
                [key, value] => Some((*key, *value)),
                _ => None,
            },
            _ => None,
        };
        let pairs: Option<Vec<_>> = items.iter().map(pair).collect();
        let pairs = pairs.ok_or_else(|| damaged("makes a dict of what are no pairs"))?;
        let depth = self.depths.get(list as usize).copied().unwrap_or(0);
        self.push_deep(Node::Dict(pairs), depth)
    }

    /// Attributes of an object: an ordered dict of tensors has the versions of its modules.
    fn build(&mut self) -> Result<(), Stop> {
        let state = self.pop()?;
        let object = self.top()?;
        self.spend_on(state)?;
        let is_metadata = |(key, _): &(Id, Id)| text(self.input, self.node(*key)) == Some("_metadata");
        match (self.node(object), self.node(state)) {
            (Node::Dict(_), Node::Dict(state)) if state.iter().all(is_metadata) => Ok(()),
            _ => Err(refused("it gives an object attributes that no tensor needs".to_owned())),
        }
    }

    /// A storage, which stands outside of the pickle: `("storage", type, key, place, elements)`,
    /// in the legacy stream with what it is a view of.
    fn persistent(&mut self) -> Result<(), Stop> {
        let id = self.pop()?;
        self.spend_on(id)?;
        let Node::Tuple(parts) = self.node(id) else { return Err(damaged("names no storage")) };
        let [kind, class, key, _, elements, view @ ..] = parts.as_slice() else {
            return Err(damaged("names no storage"));
        };
        let is_storage = text(self.input, self.node(*kind)) == Some("storage");
        let (true, Node::Global(Global::Storage(dtype))) = (is_storage, self.node(*class)) else {
            return Err(damaged("names no storage"));
        };
        if view.iter().any(|id| !matches!(self.node(*id), Node::None)) {
            return Err(refused("it has a storage that is a view of another".to_owned()));
        }
        let (key, dtype, elements) = (*key, *dtype, self.size(*elements)?);
        self.push(Node::Storage { key, dtype, elements })
    }

    fn size(&self, id: Id) -> Result<u64, Stop> {
        match self.node(id) {
            Node::Int(number) => u64::try_from(*number).map_err(|_| damaged("has a size below 0")),
            _ => Err(damaged("has a size that is no number")),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<u64>, Stop> {
        match self.node(id) {
            Node::Tuple(items) if items.len() <= DIMENSIONS_LIMIT => {
                items.iter().map(|item| self.size(*item)).collect()
            }
            Node::Tuple(items) => Err(damaged(&format!("has a tensor of {} dimensions", items.len()))),
            _ => Err(damaged("has a shape that is no tuple")),
        }
    }
}

fn too_deep() -> Stop {
    refused(format!("its values are nested deeper than {DEPTH_LIMIT}"))
}

fn damaged(what: &str) -> Stop {
    Stop::Fault(Error::Torch(format!("its pickle {what}")))
}

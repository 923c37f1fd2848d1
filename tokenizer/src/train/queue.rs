//! The queue of candidate pairs: which pair is merged next?
//!
//! In: pairs with the count they had when pushed. Out: the pair with the highest entry, ties resolved by the tie rule. The
//! queue is lazy: an entry's count is an upper bound, the caller pushes it again if it has fallen. It is exact because a
//! pair is pushed when it is made and only falls after that. Most pairs are too rare to be merged ever, so entries below a
//! floor wait in an unordered list; the floor sinks when the heap runs empty. Leaves true counts to `merges`.

use super::Ties;

/// A candidate. `count` is an upper bound on the pair's count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) count: u64,
    pub(crate) left: u32,
    pub(crate) right: u32,
}

/// Bytes of the symbols by internal id, for the tie rule "greatest".
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Symbols {
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len());
    }

    pub(crate) fn get(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..self.ends[id]]
    }

    pub(crate) fn concat(&self, left: u32, right: u32) -> Vec<u8> {
        [self.get(left), self.get(right)].concat()
    }
}

/// A 4-ary max-heap over the entries of at least `floor`, and the list of the others.
#[derive(Debug)]
pub(crate) struct Queue {
    heap: Vec<Entry>,
    waiting: Vec<Entry>,
    floor: u64,
    ties: Ties,
}

impl Queue {
    pub(crate) fn new(ties: Ties) -> Self {
        Self { heap: Vec::new(), waiting: Vec::new(), floor: u64::MAX, ties }
    }

    /// Takes everything out.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.ties);
    }

    pub(crate) fn push(&mut self, entry: Entry, symbols: &Symbols) {
        if entry.count < self.floor {
            self.waiting.push(entry);
            return;
        }
        self.heap.push(entry);
        let mut at = self.heap.len() - 1;
        while at > 0 && self.before(&entry, &self.heap[(at - 1) / 4], symbols) {
            self.heap[at] = self.heap[(at - 1) / 4];
            at = (at - 1) / 4;
        }
        self.heap[at] = entry;
    }

    /// Takes the first entry in the order of counts and ties; `None` if there is none.
    pub(crate) fn pop(&mut self, symbols: &Symbols) -> Option<Entry> {
        if self.heap.is_empty() {
            self.sink_floor(symbols);
        }
        let last = self.heap.pop()?;
        let Some(&first) = self.heap.first() else { return Some(last) };
        let mut at = 0;
        loop {
            let children = at * 4 + 1..(at * 4 + 5).min(self.heap.len());
            let Some(best) =
                children.reduce(|a, b| if self.before(&self.heap[b], &self.heap[a], symbols) { b } else { a })
            else {
                break;
            };
            if !self.before(&self.heap[best], &last, symbols) {
                break;
            }
            self.heap[at] = self.heap[best];
            at = best;
        }
        self.heap[at] = last;
        Some(first)
    }

    /// Halves the floor (or lowers it to the highest waiting count) and moves what reaches it into the heap.
    fn sink_floor(&mut self, symbols: &Symbols) {
        let Some(highest) = self.waiting.iter().map(|entry| entry.count).max() else { return };
        self.floor = (self.floor.min(highest) / 2).max(1);
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|entry| entry.count >= self.floor);
        self.waiting = waiting;
        let ready: Vec<Entry> = ready;
        ready.into_iter().for_each(|entry| self.push(entry, symbols));
    }

    fn before(&self, a: &Entry, b: &Entry, symbols: &Symbols) -> bool {
        if a.count != b.count {
            return a.count > b.count;
        }
        match self.ties {
            Ties::Hf | Ties::Raw => (a.left, a.right) < (b.left, b.right),
            Ties::Greatest => {
                let bytes = |entry: &Entry| (symbols.get(entry.left), symbols.get(entry.right));
                bytes(a) > bytes(b)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_out_by_count_then_by_the_tie_rule() {
        let mut symbols = Symbols::default();
        [b"a", b"b", b"c"].iter().for_each(|bytes| symbols.push(*bytes));
        for (ties, expected) in [(Ties::Hf, [(0, 1), (0, 2), (2, 2)]), (Ties::Greatest, [(2, 2), (0, 2), (0, 1)])] {
            let mut queue = Queue::new(ties);
            for (count, left, right) in [(5, 2, 2), (5, 0, 2), (9, 1, 1), (5, 0, 1), (1, 2, 0)] {
                queue.push(Entry { count, left, right }, &symbols);
            }
            let order: Vec<_> =
                std::iter::from_fn(|| queue.pop(&symbols)).map(|entry| (entry.left, entry.right)).collect();
            assert_eq!(order[0], (1, 1));
            assert_eq!(order[1..4], expected);
            assert_eq!(order[4], (2, 0));
        }
    }
}

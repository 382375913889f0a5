//! Buffers of the executor, and the plan that decides which values share one.

use bytemuck::{Pod, Zeroable};
use tensor::{DType, Tensor};

/// One cache line: buffers made of lines are aligned for every element type and for vector loads.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

/// Memory of one or more values.
#[derive(Debug, Clone)]
pub(crate) enum Buffer {
    Owned(Vec<Line>),
    /// A constant, read where it lies.
    Shared(Tensor),
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Line")
    }
}

impl Buffer {
    /// Zeroed memory.
    pub(crate) fn new(bytes: usize) -> Buffer {
        Buffer::Owned(vec![Line::zeroed(); bytes.div_ceil(64)])
    }

    /// A copy of `t`, or `t` itself where its bytes are aligned well enough.
    pub(crate) fn constant(t: &Tensor) -> Buffer {
        let align = if t.dtype() == DType::Bool { 1 } else { t.dtype().bits().div_ceil(8) };
        if t.bytes().as_ptr().align_offset(align) == 0 {
            return Buffer::Shared(t.clone());
        }
        let mut b = Buffer::new(t.bytes().len());
        b.bytes_mut()[..t.bytes().len()].copy_from_slice(t.bytes());
        b
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Buffer::Owned(lines) => bytemuck::cast_slice(lines),
            Buffer::Shared(t) => t.bytes(),
        }
    }

    /// Empty for shared memory, which nobody writes.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Buffer::Owned(lines) => bytemuck::cast_slice_mut(lines),
            Buffer::Shared(_) => &mut [],
        }
    }

    /// Takes the memory out for writing, leaving nothing.
    pub(crate) fn take(&mut self) -> Vec<Line> {
        match self {
            Buffer::Owned(lines) => std::mem::take(lines),
            Buffer::Shared(_) => Vec::new(),
        }
    }
}

/// A piece of memory that is needed from step `first` to step `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Lifetime {
    pub bytes: usize,
    pub first: usize,
    pub last: usize,
}

/// Gives each lifetime a slot such that no two that overlap share one. Returns the slot of each and the size of each
/// slot. Greedy by size (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020,
/// shared-objects form): large pieces first, each into the first slot that is free throughout.
pub(crate) fn share(lifetimes: &[Lifetime]) -> (Vec<usize>, Vec<usize>) {
    let mut by_size: Vec<usize> = (0..lifetimes.len()).collect();
    by_size.sort_by_key(|&i| (std::cmp::Reverse(lifetimes[i].bytes), lifetimes[i].first, i));
    let mut slot_of = vec![0; lifetimes.len()];
    // Per slot its size and the lifetimes in it, by first step.
    let mut slots: Vec<(usize, std::collections::BTreeMap<usize, usize>)> = Vec::new();
    for i in by_size {
        let l = lifetimes[i];
        let free = |taken: &std::collections::BTreeMap<usize, usize>| {
            taken.range(..=l.last).next_back().is_none_or(|(_, &last)| last < l.first)
        };
        let slot = slots.iter().position(|(_, taken)| free(taken)).unwrap_or_else(|| {
            slots.push((l.bytes, Default::default()));
            slots.len() - 1
        });
        slots[slot].1.insert(l.first, l.last);
        slot_of[i] = slot;
    }
    (slot_of, slots.into_iter().map(|(bytes, _)| bytes).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_lifetimes_never_share() {
        let mut seed = 1u64;
        let mut draw = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((seed >> 33) % n) as usize
        };
        for _ in 0..50 {
            let lifetimes: Vec<Lifetime> = (0..40)
                .map(|_| {
                    let first = draw(60);
                    Lifetime { bytes: 1 + draw(1000), first, last: first + draw(12) }
                })
                .collect();
            let (slot, size) = share(&lifetimes);
            for (i, a) in lifetimes.iter().enumerate() {
                assert!(size[slot[i]] >= a.bytes);
                for (j, b) in lifetimes.iter().enumerate().skip(i + 1) {
                    assert!(slot[i] != slot[j] || a.last < b.first || b.last < a.first, "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn a_chain_needs_two_slots() {
        let chain: Vec<Lifetime> = (0..10).map(|i| Lifetime { bytes: 8, first: i, last: i + 1 }).collect();
        assert_eq!(share(&chain).1.len(), 2);
    }
}

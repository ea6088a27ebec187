//! An allocator for an instance that lives for one call.
//!
//! Growing linear memory costs system calls on the host, which are most of what a short call costs. So the arena
//! begins with memory that the module has from its start, hands it out from a moving top, and asks for more only when
//! that is used up. Freed blocks go to a list of their size class (four classes between two powers of two, so at most
//! a quarter is wasted), and a block at the top can grow, shrink and go in place: a growing `Vec` or `String` is
//! mostly there. Blocks are never joined or split; for one call that is no loss.
//!
//! The functions are not inlined: a copy at each place that allocates makes a guest a quarter larger.

/// The alignment of every block, bytes: enough for all that Rust's own types ask for.
const ALIGN: usize = 16;

/// Classes for all sizes of a 32-bit memory.
const CLASSES: usize = 4 * (usize::BITS as usize);

/// Where memory comes from.
pub(crate) trait Source {
    /// Makes the memory from where it is handed out now up to the address `end` usable; `false` where it ends before.
    fn extend(&mut self, end: usize) -> bool;

    /// Goes on elsewhere, with at least `size` bytes from the address returned; 0 where there is no memory.
    fn elsewhere(&mut self, size: usize) -> usize;

    /// The free block behind this one, as [`Source::link`] left it.
    ///
    /// # Safety
    /// `block` was linked and not handed out since.
    unsafe fn linked(&self, block: usize) -> usize;

    /// Notes the free block behind this one inside it.
    ///
    /// # Safety
    /// `block` is free, `ALIGN` bytes or more.
    unsafe fn link(&mut self, block: usize, next: usize);
}

/// The state of the allocator. Addresses are numbers, so that the rules can be tested without memory; 0 is none.
pub(crate) struct Arena<S> {
    source: S,
    /// The first free byte above all blocks.
    top: usize,
    /// The first free block of each class.
    free: [usize; CLASSES],
}

/// The class of a size, and the size of its blocks; none where that is beyond memory.
fn class(size: usize) -> Option<(usize, usize)> {
    // The classes up to 64 are all multiples of 16.
    let size = size.max(1).checked_next_multiple_of(ALIGN)?;
    if size <= 4 * ALIGN {
        return Some((size / ALIGN - 1, size));
    }
    let power = usize::BITS - 1 - (size - 1).leading_zeros();
    let step = 1 << (power - 2);
    let block = size.checked_next_multiple_of(step)?;
    // From the power itself, exclusive, four steps reach the next.
    let quarter = (block - (1 << power)) / step;
    Some((4 * (power as usize - 5) + quarter - 1, block))
}

/// Where a block begins and ends that is put at `top` or a little above.
fn place(top: usize, size: usize, align: usize) -> Option<(usize, usize)> {
    let start = top.checked_next_multiple_of(align)?;
    Some((start, start.checked_add(size)?))
}

impl<S: Source> Arena<S> {
    pub(crate) const fn new(source: S, start: usize) -> Self {
        Self { source, top: start, free: [0; CLASSES] }
    }

    /// A block of `size` bytes at a multiple of `align`, a power of two; 0 where there is no memory.
    ///
    /// # Safety
    /// The source's memory is used through this arena only.
    #[inline(never)]
    pub(crate) unsafe fn allocate(&mut self, size: usize, align: usize) -> usize {
        let Some((class, block_size)) = class(size) else { return 0 };
        let block = self.free[class];
        if block != 0 && block & (align - 1) == 0 {
            // SAFETY: the list holds free blocks only.
            self.free[class] = unsafe { self.source.linked(block) };
            return block;
        }
        let align = align.max(ALIGN);
        if let Some((start, end)) = place(self.top, block_size, align)
            && self.source.extend(end)
        {
            self.top = end;
            return start;
        }
        let Some(size) = block_size.checked_add(align) else { return 0 };
        match self.source.elsewhere(size) {
            0 => 0,
            top => match place(top, block_size, align) {
                Some((start, end)) => {
                    self.top = end;
                    start
                }
                None => 0,
            },
        }
    }

    /// Takes back a block.
    ///
    /// # Safety
    /// `block` was handed out for `size` and not taken back since.
    #[inline(never)]
    pub(crate) unsafe fn free(&mut self, block: usize, size: usize) {
        let Some((class, block_size)) = class(size) else { return };
        if block + block_size == self.top {
            self.top = block;
            return;
        }
        // SAFETY: the caller gives the block up, and no class is smaller than `ALIGN`.
        unsafe { self.source.link(block, self.free[class]) };
        self.free[class] = block;
    }

    /// Changes the size of a block where it stands; `false` where it must move.
    ///
    /// # Safety
    /// As of [`Arena::free`].
    #[inline(never)]
    pub(crate) unsafe fn resize(&mut self, block: usize, size: usize, new_size: usize) -> bool {
        let (Some((_, old)), Some((_, new))) = (class(size), class(new_size)) else { return false };
        if old == new {
            return true;
        }
        if block + old != self.top {
            return false;
        }
        let Some(end) = block.checked_add(new) else { return false };
        if new > old && !self.source.extend(end) {
            return false;
        }
        self.top = end;
        true
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const START: usize = 0x1000;

    /// Two regions with a gap between them.
    struct Numbers {
        end: usize,
        limit: usize,
        second: Option<(usize, usize)>,
        links: BTreeMap<usize, usize>,
    }

    impl Source for Numbers {
        fn extend(&mut self, end: usize) -> bool {
            let fits = end <= self.limit;
            if fits {
                self.end = self.end.max(end);
            }
            fits
        }

        fn elsewhere(&mut self, size: usize) -> usize {
            match self.second.take_if(|(_, length)| *length >= size) {
                Some((start, length)) => {
                    (self.end, self.limit) = (start, start + length);
                    start
                }
                None => 0,
            }
        }

        unsafe fn linked(&self, block: usize) -> usize {
            self.links[&block]
        }

        unsafe fn link(&mut self, block: usize, next: usize) {
            self.links.insert(block, next);
        }
    }

    fn arena(limit: usize) -> Arena<Numbers> {
        let second = Some((2 * START + limit, limit));
        Arena::new(Numbers { end: START, limit: START + limit, second, links: BTreeMap::new() }, START)
    }

    #[test]
    fn classes_grow_by_one_and_waste_at_most_a_quarter() {
        let (mut last, mut last_block) = (0, 0);
        for size in 0..100_000 {
            let (class, block) = class(size).unwrap();
            assert!(block >= size && block % ALIGN == 0, "{size}: {block}");
            assert!(size <= 4 * ALIGN || block - size <= size / 4 + ALIGN, "{size}: {block}");
            assert!(class == last || class == last + 1, "{size}: {last} to {class}");
            assert_eq!(class == last && size > 0 && last_block != 0, block == last_block, "{size}");
            (last, last_block) = (class, block);
        }
        assert_eq!(class(usize::MAX), None);
        assert!(class(usize::MAX / 2).unwrap().0 < CLASSES);
    }

    #[test]
    fn blocks_never_overlap_and_are_aligned() {
        // The first region is too small for all of it.
        let mut arena = arena(1 << 20);
        let mut live: BTreeMap<usize, usize> = BTreeMap::new();
        let mut state = 1_u64;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        for _ in 0..20_000 {
            let at = next(live.len().max(1));
            let chosen = live.iter().nth(at).map(|(block, size)| (*block, *size));
            match (next(3), chosen) {
                // SAFETY: only blocks that the arena handed out are given back, once, with their size.
                (0, Some((block, size))) => unsafe {
                    arena.free(block, size);
                    live.remove(&block);
                },
                (1, Some((block, size))) => {
                    let new_size = next(5_000);
                    // SAFETY: as above.
                    if unsafe { arena.resize(block, size, new_size) } {
                        live.insert(block, new_size);
                    }
                }
                _ => {
                    let (size, align) = (next(2_000), 1 << next(7));
                    // SAFETY: the source is of this arena alone.
                    let block = unsafe { arena.allocate(size, align) };
                    assert!(block >= START && block % align == 0 && block % ALIGN == 0);
                    live.insert(block, size);
                }
            }
            if live.len() > 200 {
                let (block, size) = live.pop_first().unwrap();
                // SAFETY: as above.
                unsafe { arena.free(block, size) };
            }
            let mut end = START;
            for (block, size) in &live {
                assert!(*block >= end, "{block:x} lies in the block before it");
                end = block + size.max(&1);
            }
            assert!(end <= arena.top.max(START + (1 << 20)) && arena.top <= arena.source.limit);
        }
    }

    #[test]
    fn same_work_again_needs_no_more_memory() {
        let mut arena = arena(1 << 22);
        let mut work = || {
            // SAFETY: every block is given back once, with its size.
            unsafe {
                let blocks: Vec<_> = (1..500).map(|size| (arena.allocate(size * 7, 8), size * 7)).collect();
                for (block, size) in blocks {
                    arena.free(block, size);
                }
            }
            arena.source.end
        };
        let first = work();
        assert!((0..10).all(|_| work() == first));
    }

    #[test]
    fn block_at_the_top_grows_and_goes_in_place() {
        let mut arena = arena(1 << 16);
        // SAFETY: the blocks are of this arena and given back once, with their size.
        unsafe {
            let below = arena.allocate(100, 1);
            let block = arena.allocate(100, 1);
            assert!(arena.resize(block, 100, 10_000));
            assert!(!arena.resize(below, 100, 200), "it would run into the next");
            assert!(!arena.resize(block, 10_000, 1 << 17), "the region ends before");
            arena.free(block, 10_000);
            assert_eq!(arena.allocate(50, 1), block);
        }
    }

    #[test]
    fn no_memory_is_no_block() {
        let mut arena = arena(2_000);
        // SAFETY: the source is of this arena alone.
        unsafe {
            assert_eq!(arena.allocate(3_000, 1), 0);
            assert_eq!(arena.allocate(usize::MAX, 1), 0);
            assert_ne!(arena.allocate(900, 1), 0);
            assert_ne!(arena.allocate(900, 1), 0, "it lies in the second region");
            assert_eq!(arena.allocate(900, 1), 0);
        }
    }
}

//! The arena as the guest's global allocator.

use std::{
    alloc::{GlobalAlloc, Layout},
    arch::wasm32::{memory_grow, memory_size},
    cell::UnsafeCell,
    ptr,
};

use crate::arena::{Arena, Source};

#[cfg(target_feature = "atomics")]
compile_error!("the arena has no lock: a guest with threads builds with `default-features = false`");

/// Memory that the module has from its start, bytes. It costs an instance nothing until it is touched, and most
/// calls touch less and never grow.
const INITIAL: usize = 512 << 10;

/// The unit of linear memory, bytes.
const PAGE: usize = 64 << 10;

/// By how much linear memory grows at least, pages.
const GROWTH: usize = 16;

#[repr(C, align(16))]
struct Initial(UnsafeCell<[u8; INITIAL]>);

// SAFETY: a guest has one thread.
unsafe impl Sync for Initial {}

static INITIAL_MEMORY: Initial = Initial(UnsafeCell::new([0; INITIAL]));

/// At first the module's initial memory, then what `memory.grow` brings.
struct LinearMemory {
    end: usize,
}

impl LinearMemory {
    /// Grows by `size` bytes or more; where the new memory begins.
    fn grow(&mut self, size: usize) -> Option<usize> {
        let pages = size.div_ceil(PAGE).max(GROWTH);
        let start = memory_grow::<0>(pages);
        if start == usize::MAX {
            return None;
        }
        self.end = (start + pages).saturating_mul(PAGE);
        Some(start * PAGE)
    }
}

impl Source for LinearMemory {
    fn extend(&mut self, end: usize) -> bool {
        // Growing continues this memory only where it is the last of linear memory.
        end <= self.end || (self.end == memory_size::<0>() * PAGE && self.grow(end - self.end).is_some())
    }

    fn elsewhere(&mut self, size: usize) -> usize {
        self.grow(size).unwrap_or(0)
    }

    unsafe fn linked(&self, block: usize) -> usize {
        // SAFETY: the caller says that a link stands there.
        unsafe { ptr::read(block as *const usize) }
    }

    unsafe fn link(&mut self, block: usize, next: usize) {
        // SAFETY: the block is free and has room.
        unsafe { ptr::write(block as *mut usize, next) }
    }
}

struct Heap(UnsafeCell<Option<Arena<LinearMemory>>>);

// SAFETY: a guest has one thread.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(None));

impl Heap {
    #[expect(clippy::mut_from_ref, reason = "there is one thread, and the arena calls nothing that allocates")]
    fn arena(&self) -> &mut Arena<LinearMemory> {
        // SAFETY: no second reference lives: see above.
        let arena = unsafe { &mut *self.0.get() };
        arena.get_or_insert_with(|| {
            let start = INITIAL_MEMORY.0.get() as usize;
            Arena::new(LinearMemory { end: start + INITIAL }, start)
        })
    }
}

// SAFETY: blocks are aligned, do not overlap and stay where they are until they are given back (tests of `arena`).
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the initial memory and all that is grown belong to the arena alone.
        unsafe { self.arena().allocate(layout.size(), layout.align()) as *mut u8 }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back what `alloc` handed out.
        unsafe { self.arena().free(block as usize, layout.size()) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the block is the caller's, and a new one does not overlap it.
        unsafe {
            if self.arena().resize(block as usize, layout.size(), new_size) {
                return block;
            }
            let moved = self.arena().allocate(new_size, layout.align()) as *mut u8;
            if !moved.is_null() {
                ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                self.arena().free(block as usize, layout.size());
            }
            moved
        }
    }
}

//! Memory that kernels compute in: aligned to cache lines, zero at first, and pointers into it that threads may share.

use bytemuck::Zeroable;

/// One cache line, so that a vector of them is aligned.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; Buffer::LINE]);

/// `len` f32, fixed for life. Pages never written take no memory.
pub(crate) struct Buffer {
    lines: Box<[Line]>,
}

impl Buffer {
    /// Values per cache line: rows whose stride is a multiple of it start at one.
    pub const LINE: usize = 16;

    pub fn new(len: usize) -> Self {
        Self { lines: bytemuck::allocation::zeroed_slice_box(len.div_ceil(Self::LINE)) }
    }

    pub fn len(&self) -> usize {
        self.lines.len() * Self::LINE
    }

    pub fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }

    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: the lines are `len` values without gaps.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.len()) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: the lines are `len` values without gaps.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), self.len()) }
    }
}

/// `[rows, features]` with room for `rows_max`; see [`engine::device::Device`].
pub(crate) struct Activation {
    data: Buffer,
    features: usize,
    stride: usize,
    rows: usize,
    rows_max: usize,
}

impl Activation {
    pub fn new(rows_max: usize, features: usize) -> Self {
        let stride = features.next_multiple_of(Buffer::LINE);
        Self { data: Buffer::new(rows_max * stride), features, stride, rows: 0, rows_max }
    }

    pub fn features(&self) -> usize {
        self.features
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Distance between rows in values.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Sets how many rows there are from now on.
    pub fn resize(&mut self, rows: usize) {
        assert!(rows <= self.rows_max, "{rows} rows, room for {}", self.rows_max);
        self.rows = rows;
    }

    pub fn as_ptr(&self) -> *const f32 {
        self.data.as_ptr()
    }

    pub fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data.as_mut_ptr()
    }

    pub fn row(&self, row: usize) -> &[f32] {
        assert!(row < self.rows);
        // SAFETY: `rows <= rows_max` rows of `stride >= features` values were allocated.
        unsafe { std::slice::from_raw_parts(self.as_ptr().add(row * self.stride), self.features) }
    }

    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows);
        // SAFETY: as `row`.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr().add(row * self.stride), self.features) }
    }
}

/// A pointer that the tasks of one operation share. Who makes one sees to it that no two tasks write to one place.
pub(crate) struct Shared<T>(*mut T);

// SAFETY: a pointer is an address; what is done with it is argued where it is used.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(pointer: *mut T) -> Self {
        Self(pointer)
    }

    pub fn read(pointer: *const T) -> Self {
        Self(pointer.cast_mut())
    }

    /// A method, so that closures capture the whole, which is `Sync`, and not its field, which is not.
    pub fn get(self) -> *mut T {
        self.0
    }
}

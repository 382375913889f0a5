//! The contract between an operator and the executor: concrete operands in, one runnable step out.

use smallvec::SmallVec;
use tensor::{DType, Element, Tensor};

/// How the elements of a value of rank 3 or more lie in memory. The shape stays the one of ONNX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Layout {
    /// Row-major in the order of the shape: `(N, C, H, W)`.
    #[default]
    Plain,
    /// Channels innermost: `(N, H, W, C)`.
    ChannelsLast,
}

/// What an operator wants of the layouts of its operands and results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layouts {
    /// Row-major only.
    Plain,
    /// Element-wise with broadcasting: any, as long as all operands and results agree.
    Any,
    /// Any, as long as the operands and results whose bit is set agree; the others are row-major.
    Same {
        /// Bit `i` stands for operand `i`.
        ins: u32,
        /// Bit `i` stands for result `i`.
        outs: u32,
    },
    /// Channels-last for the operands and results whose bit is set, row-major for the others.
    ChannelsLast {
        /// Bit `i` stands for operand `i`.
        ins: u32,
        /// Bit `i` stands for result `i`.
        outs: u32,
    },
}

impl Layouts {
    /// Whether a mask names slot `i`. One with every bit set also names those behind its bits.
    pub fn names(mask: u32, i: usize) -> bool {
        mask == u32::MAX || mask.checked_shr(i as u32).unwrap_or(0) & 1 == 1
    }
}

/// A concrete operand or result.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Element type.
    pub dtype: DType,
    /// Sizes in ONNX order, whatever the layout.
    pub shape: Vec<usize>,
    /// Order in memory.
    pub layout: Layout,
    /// The value, where constant (row-major; given for small constants only when the layout is plain).
    pub value: Option<Tensor>,
}

impl Operand {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where dimension `axis` of the shape stands in [`Operand::memory_shape`].
    pub fn memory_axis(&self, axis: usize) -> usize {
        match (self.layout, axis) {
            (Layout::ChannelsLast, 1) => self.shape.len() - 1,
            (Layout::ChannelsLast, 2..) => axis - 1,
            _ => axis,
        }
    }

    /// Sizes in the order of memory: `(N, H, W, C)` when channels-last.
    pub fn memory_shape(&self) -> Vec<usize> {
        let mut s = self.shape.clone();
        if self.layout == Layout::ChannelsLast && s.len() > 2 {
            s[1..].rotate_left(1);
        }
        s
    }
}

/// The question to [`Op::lower`](crate::Op::lower).
#[derive(Clone, Debug)]
pub struct Lower {
    /// Operands; holes are omitted optional inputs.
    pub ins: Vec<Option<Operand>>,
    /// Results. A result that nobody reads is there all the same.
    pub outs: Vec<Operand>,
}

impl Lower {
    /// Operand `i`.
    ///
    /// # Errors
    /// When it is omitted.
    pub fn input(&self, i: usize) -> Result<&Operand, String> {
        self.ins.get(i).and_then(Option::as_ref).ok_or_else(|| format!("input {i} is missing"))
    }

    /// Operand `i` if it is given.
    pub fn optional(&self, i: usize) -> Option<&Operand> {
        self.ins.get(i).and_then(Option::as_ref)
    }

    /// Operand `i`, which must hold `T`.
    ///
    /// # Errors
    /// When it is omitted or of another element type.
    pub fn typed<T: Element>(&self, i: usize) -> Result<&Operand, String> {
        let o = self.input(i)?;
        if o.dtype == T::DTYPE {
            Ok(o)
        } else {
            Err(format!("the executor computes in {}, but input {i} is {}", T::DTYPE, o.dtype))
        }
    }

    /// Operand `i`, where it is given; it must hold `T`.
    ///
    /// # Errors
    /// When it is of another element type.
    pub fn optional_typed<T: Element>(&self, i: usize) -> Result<Option<&Operand>, String> {
        self.optional(i).map(|_| self.typed::<T>(i)).transpose()
    }

    /// Value of operand `i`, which must be constant.
    ///
    /// # Errors
    /// When it is omitted or computed at run time.
    pub fn constant(&self, i: usize) -> Result<&Tensor, String> {
        self.input(i)?
            .value
            .as_ref()
            .ok_or_else(|| format!("input {i} must be a constant here, but it is computed"))
    }
}

/// The body of a [`Step`].
pub type Run = Box<dyn Fn(&mut Io) -> Result<(), String> + Send + Sync>;

/// One runnable operation with everything about shapes already decided.
pub struct Step {
    /// Reads the operands, writes the results. Allocates nothing.
    ///
    /// An error is a sentence on the data (a label out of range); the executor adds which node it is.
    pub run: Run,
    /// Scratch memory in bytes, contents undefined.
    pub workspace: usize,
    /// `(operand, result)`: the result may take the operand's buffer when nobody reads the operand afterwards.
    pub in_place: SmallVec<[(usize, usize); 2]>,
    /// The only result is operand 0 under another shape: no work at all.
    pub view: bool,
}

impl Step {
    /// A step without scratch memory.
    pub fn new(run: impl Fn(&mut Io) -> Result<(), String> + Send + Sync + 'static) -> Step {
        Step { run: Box::new(run), workspace: 0, in_place: SmallVec::new(), view: false }
    }

    /// The result is operand 0 under another shape.
    pub fn view() -> Step {
        Step { view: true, ..Step::new(|_| Ok(())) }
    }

    /// Asks for scratch memory of `len` elements of `T`.
    pub fn workspace<T: Element>(mut self, len: usize) -> Step {
        self.workspace = len * size_of::<T>();
        self
    }

    /// Allows result `output` to take the buffer of operand `input`. The two must have the same number of bytes.
    pub fn in_place(mut self, input: usize, output: usize) -> Step {
        self.in_place.push((input, output));
        self
    }
}

/// Operands, results and scratch memory of a running [`Step`].
pub struct Io<'a> {
    ins: SmallVec<[Option<&'a [u8]>; 8]>,
    outs: SmallVec<[&'a mut [u8]; 4]>,
    workspace: &'a mut [u8],
    shared: SmallVec<[Option<usize>; 8]>,
}

/// An operand and a result that may be one buffer.
pub enum Pair<'b, T> {
    /// The result took the operand's buffer, which still holds the operand.
    InPlace(&'b mut [T]),
    /// Two buffers.
    Apart(&'b [T], &'b mut [T]),
}

impl<'a> Io<'a> {
    /// For the executor: `shared[i]` says which result took the buffer of operand `i`.
    pub fn new(
        ins: SmallVec<[Option<&'a [u8]>; 8]>,
        outs: SmallVec<[&'a mut [u8]; 4]>,
        workspace: &'a mut [u8],
        shared: SmallVec<[Option<usize>; 8]>,
    ) -> Io<'a> {
        Io { ins, outs, workspace, shared }
    }

    /// Operand `i`; empty when it is omitted. Not to be called for an operand whose buffer a result took.
    pub fn input<T: Element>(&self, i: usize) -> &[T] {
        debug_assert!(
            self.shared.get(i).copied().flatten().is_none(),
            "operand {i} shares its buffer: use split"
        );
        self.ins.get(i).copied().flatten().map_or(&[], |b| bytemuck::cast_slice(b))
    }

    /// Whether operand `i` is given.
    pub fn has(&self, i: usize) -> bool {
        self.ins.get(i).is_some_and(Option::is_some) || self.shared.get(i).copied().flatten().is_some()
    }

    /// Result `i`.
    pub fn output<T: Element>(&mut self, i: usize) -> &mut [T] {
        bytemuck::cast_slice_mut(self.outs[i])
    }

    /// Everything at once, for kernels that take several: operands, results, scratch memory.
    pub fn split(&mut self) -> Parts<'_, 'a> {
        Parts {
            ins: &self.ins,
            outs: self.outs.iter_mut().map(Some).collect(),
            workspace: Some(self.workspace),
            shared: &self.shared,
        }
    }

    /// Operand `input` with result `output`, where [`Step::in_place`] allowed them to share.
    pub fn pair<T: Element>(&mut self, input: usize, output: usize) -> Pair<'_, T> {
        let out: &mut [T] = bytemuck::cast_slice_mut(self.outs[output]);
        match self.shared.get(input).copied().flatten() {
            Some(o) if o == output => Pair::InPlace(out),
            _ => Pair::Apart(
                self.ins.get(input).copied().flatten().map_or(&[], |b| bytemuck::cast_slice(b)),
                out,
            ),
        }
    }
}

/// Disjoint borrows of an [`Io`].
pub struct Parts<'b, 'a> {
    ins: &'b [Option<&'a [u8]>],
    outs: SmallVec<[Option<&'b mut &'a mut [u8]>; 4]>,
    workspace: Option<&'b mut [u8]>,
    shared: &'b [Option<usize>],
}

impl<'b, 'a: 'b> Parts<'b, 'a> {
    /// Operand `i`; empty when it is omitted.
    pub fn input<T: Element>(&self, i: usize) -> &'b [T] {
        self.ins.get(i).copied().flatten().map_or(&[], |b| bytemuck::cast_slice(b))
    }

    /// Operand `i`, where given.
    pub fn optional<T: Element>(&self, i: usize) -> Option<&'b [T]> {
        self.ins.get(i).copied().flatten().map(|b| bytemuck::cast_slice(b))
    }

    /// Result `i`; each may be taken once.
    pub fn output<T: Element>(&mut self, i: usize) -> &'b mut [T] {
        self.outs.get_mut(i).and_then(Option::take).map_or(&mut [], |b| bytemuck::cast_slice_mut(b))
    }

    /// Result `output` already holding operand `input`: in place where [`Step::in_place`] was granted, copied where not.
    pub fn updated<T: Element>(&mut self, input: usize, output: usize) -> &'b mut [T] {
        let in_place = self.shared.get(input).copied().flatten() == Some(output);
        let source = self.input(input);
        let out = self.output(output);
        if !in_place {
            out.copy_from_slice(source);
        }
        out
    }

    /// Scratch memory as asked for with [`Step::workspace`]; may be taken once.
    pub fn workspace<T: Element>(&mut self) -> &'b mut [T] {
        self.workspace.take().map_or(&mut [], |b| bytemuck::cast_slice_mut(b))
    }

    /// Scratch memory of two element types: `first` elements of `A`, and the rest as `B`, which must not be wider. May be
    /// taken once, instead of [`Parts::workspace`].
    pub fn workspaces<A: Element, B: Element>(&mut self, first: usize) -> (&'b mut [A], &'b mut [B]) {
        let Some(bytes) = self.workspace.take() else { return (&mut [], &mut []) };
        let (a, b) = bytes.split_at_mut(first * size_of::<A>());
        (bytemuck::cast_slice_mut(a), bytemuck::cast_slice_mut(b))
    }
}

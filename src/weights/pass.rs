use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::imatrix::Imatrix;
use super::layout::{Form, Piece, Written, form, pieces};
use super::output::{Partial, give_names};
use super::source::Source;
use super::{Error, Made, Order};
use crate::gguf::{NewHeader, NewTensor};
use crate::quant::kernel;
use crate::units::Bytes;

/// How often progress is told.
const TICK: Duration = Duration::from_millis(200);

/// Bytes after which what was written is handed to the disk, while the pass goes on.
const FLUSH: u64 = 128 << 20;

/// What goes in and out of a pass while it runs.
pub struct Control<'a> {
    /// Once true, the pass ends at the next piece.
    pub stop: &'a AtomicBool,
    /// Hears how much is to be written in all, once that is known, before any progress.
    pub begun: &'a (dyn Fn(Bytes) + Sync),
    /// Hears how much has been written, over all files.
    pub progress: &'a (dyn Fn(Bytes) + Sync),
}

impl Control<'_> {
    /// Returns the control of a pass that nobody stops or watches.
    pub fn none() -> Self {
        static NEVER: AtomicBool = AtomicBool::new(false);
        Self { stop: &NEVER, begun: &|_| {}, progress: &|_| {} }
    }
}

/// Makes every file of the order. Blocks for as long as it takes.
///
/// The files are named one after the other at the very end, when all are whole and on the disk.
pub fn run(order: &Order, control: &Control<'_>) -> Result<Vec<Made>, Error> {
    let files = open(order)?;
    fill(order, &files, control)?;
    let made = give_names(order);
    // locked until then
    drop(files);
    made
}

/// Opens the files of the order, under the names that they have until they are whole.
///
/// # Errors
/// [`Error::SameName`], [`Error::Busy`] while another pass makes one of them.
pub(super) fn open(order: &Order) -> Result<Vec<Partial>, Error> {
    let mut names = BTreeSet::from([&order.source]);
    if let Some(twice) = order.outputs.iter().find(|output| !names.insert(&output.path)) {
        return Err(Error::SameName(twice.path.clone()));
    }
    order.outputs.iter().map(|output| Partial::open(&output.path)).collect()
}

/// Makes what is in the files of the order, and brings it to the disk.
pub(super) fn fill(order: &Order, files: &[Partial], control: &Control<'_>) -> Result<(), Error> {
    let source = Source::open(&order.source, order.prompt_style)?;
    let imatrix = order.imatrix.as_deref().map(Imatrix::read).transpose()?;
    let plan = Plan::new(order, &source, imatrix.as_ref())?;
    for (file, header) in files.iter().zip(&plan.headers) {
        file.begin(header.file_bytes, &header.bytes)?;
    }
    (control.begun)(Bytes(plan.total));
    let work = Work {
        source: &source,
        plan: &plan,
        imatrix: imatrix.as_ref(),
        files,
        stop: control.stop,
        next: AtomicUsize::new(0),
        written: AtomicU64::new(0),
        state: Mutex::default(),
        ended: Condvar::new(),
    };
    let threads = match order.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => usize::try_from(threads).unwrap_or(1),
    };
    work.all(threads.min(plan.pieces.len().max(1)), control.progress)?;
    files.iter().try_for_each(Partial::sync)?;
    if control.stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped);
    }
    Ok(())
}

/// What goes where, for all files.
struct Plan {
    headers: Vec<NewHeader>,
    /// The forms of each tensor.
    forms: Vec<Vec<Written>>,
    pieces: Vec<Piece>,
    /// Bytes of tensors over all files.
    total: u64,
}

impl Plan {
    fn new(order: &Order, source: &Source, imatrix: Option<&Imatrix>) -> Result<Self, Error> {
        let tensors = source.tensors();
        let mut forms: Vec<Vec<Written>> = vec![Vec::new(); tensors.len()];
        let mut headers = Vec::new();
        let mut total = 0;
        for (file, output) in order.outputs.iter().enumerate() {
            let types = source.types(output.quant, imatrix.is_some())?;
            let new: Vec<NewTensor> = tensors
                .iter()
                .zip(&types)
                .map(|(tensor, tensor_type)| NewTensor {
                    name: tensor.name.clone(),
                    shape: tensor.shape.clone(),
                    tensor_type: *tensor_type,
                })
                .collect();
            let mut keys = source.metadata(output.quant);
            if let Some(imatrix) = imatrix {
                keys.extend(imatrix.keys());
            }
            let header = NewHeader::new(&keys, &new)
                .map_err(|source| Error::Header { path: output.path.clone(), source })?;
            let is_float = matches!(output.quant.name(), "F32" | "F16" | "BF16");
            for (number, (tensor, wanted)) in tensors.iter().zip(types).enumerate() {
                let form = form(tensor, wanted, is_float);
                let quantized = tensor.stored.filter(|stored| stored.is_quantized() && form != Form::Copied);
                if let Some(tensor_type) = quantized.filter(|_| !order.may_requantize) {
                    return Err(Error::Requantize { path: order.source.clone(), tensor_type });
                }
                if form != Form::Copied && !kernel::encodes(wanted, imatrix.is_some()) {
                    return Err(Error::WithoutLlama(output.quant));
                }
                let (row, rows) = tensor.rows();
                let row_bytes = wanted.row_bytes(row).unwrap_or(0);
                total += row_bytes.saturating_mul(rows);
                let place = (file, header.offsets.get(number).copied().unwrap_or(0));
                let own = &mut forms[number];
                match own.iter_mut().find(|written| written.form == form) {
                    Some(written) => written.at.push(place),
                    None => own.push(Written { form, row_bytes, at: vec![place] }),
                }
            }
            headers.push(header);
        }
        if let Some(imatrix) = imatrix {
            imatrix.check_all(tensors)?;
        }
        // values are rounded in place: what wants them as they are comes first
        for own in &mut forms {
            own.sort_by_key(|written| matches!(written.form, Form::Rounded(_)));
        }
        Ok(Self { headers, forms, pieces: pieces(tensors), total })
    }
}

/// One pass while it runs: pieces are taken by whichever thread is free.
struct Work<'a> {
    source: &'a Source,
    plan: &'a Plan,
    imatrix: Option<&'a Imatrix>,
    files: &'a [Partial],
    stop: &'a AtomicBool,
    next: AtomicUsize,
    written: AtomicU64,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    ended: usize,
    error: Option<Error>,
}

/// What a thread keeps between pieces, so that memory is taken once.
#[derive(Default)]
struct Buffers {
    values: Vec<f32>,
    bytes: Vec<u8>,
}

impl Work<'_> {
    /// Works on all pieces with `threads`, and tells of progress on this one.
    fn all(&self, threads: usize, progress: &(dyn Fn(Bytes) + Sync)) -> Result<(), Error> {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.thread());
            }
            self.watch(threads, progress);
        });
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        match state.error {
            Some(error) => Err(error),
            None if self.stop.load(Ordering::Relaxed) => Err(Error::Stopped),
            None => Ok(()),
        }
    }

    fn thread(&self) {
        // counted also when a piece panics: the pass must not wait for it forever
        let _ended = Ended(self);
        let mut buffers = Buffers::default();
        while !self.stop.load(Ordering::Relaxed) && !self.has_failed() {
            let Some(piece) = self.plan.pieces.get(self.next.fetch_add(1, Ordering::Relaxed)) else { break };
            if let Err(error) = self.piece(piece, &mut buffers) {
                self.state.lock().unwrap_or_else(PoisonError::into_inner).error.get_or_insert(error);
                break;
            }
        }
    }

    fn has_failed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).error.is_some()
    }

    fn watch(&self, threads: usize, progress: &(dyn Fn(Bytes) + Sync)) {
        let (mut told, mut flushed) = (0, 0);
        let mut tell = || {
            let written = self.written.load(Ordering::Relaxed);
            if written > told {
                told = written;
                progress(Bytes(written));
            }
            written
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.ended < threads {
            let waited = self.ended.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let is_running = state.ended < threads;
            drop(state);
            let written = tell();
            if is_running && written - flushed >= FLUSH {
                flushed = written;
                // whether it is really on the disk is asked again at the end
                let _ = self.files.iter().try_for_each(Partial::sync);
            }
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        // the last thread may have ended while this one was telling
        tell();
    }

    fn piece(&self, piece: &Piece, buffers: &mut Buffers) -> Result<(), Error> {
        let Piece { tensor: number, rows } = piece;
        let (Some(tensor), Some(forms)) = (self.source.tensors().get(*number), self.plan.forms.get(*number))
        else {
            return Ok(());
        };
        let (row, _) = tensor.rows();
        let row = usize::try_from(row).unwrap_or(usize::MAX);
        let Buffers { values, bytes } = buffers;
        values.clear();
        if forms.iter().any(|written| written.form != Form::Copied) {
            self.source.read(*number, rows.clone(), values)?;
        }
        let importance = self.imatrix.and_then(|imatrix| imatrix.of(tensor));
        let mut is_rounded = false;
        for written in forms {
            bytes.clear();
            let fault = |error: kernel::Fault| self.source.fault(*number, error.to_string());
            match written.form {
                Form::Copied => self.source.copy(*number, rows.clone(), bytes)?,
                Form::Exact(kind) => kernel::encode(kind, row, values, None, bytes).map_err(fault)?,
                Form::Rounded(kind) => {
                    if let Some(float) = self.source.rounding().filter(|_| !is_rounded) {
                        kernel::round(float, values).map_err(fault)?;
                    }
                    is_rounded = true;
                    kernel::encode(kind, row, values, importance, bytes).map_err(fault)?;
                }
            }
            for (file, start) in &written.at {
                if let Some(file) = self.files.get(*file) {
                    file.write(bytes, start + rows.start * written.row_bytes)?;
                    self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
            }
        }
        Ok(())
    }
}

/// Counts a thread that has ended, however it did.
struct Ended<'a>(&'a Work<'a>);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).ended += 1;
        self.0.ended.notify_all();
    }
}

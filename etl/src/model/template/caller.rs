//! `{% call %}` with a macro of another file.
//!
//! What stands between `{% call %}` and `{% endcall %}` can only be rendered where it was written, by the state of its own
//! template, and that state waits for the macro. So the macro is rendered by a thread of its own, whose `caller(…)` asks
//! the waiting one.
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, Value, from_args};
use minijinja::{Error, ErrorKind, State};

/// Macros call macros, each with a renderer on the stack: enough for as deep as they may.
const STACK_BYTES: usize = 8 << 20;

/// A call of `caller(…)`: its arguments, and where its answer goes.
type Asked = (Vec<Value>, Sender<Result<Value, Error>>);

/// Calls `render` with `args`, in which `caller` can be called from whatever state.
pub(super) fn lend(
    state: &mut State<'_, '_>,
    args: &[Value],
    render: impl FnOnce(&[Value]) -> Result<Value, Error> + Send,
) -> Result<Value, Error> {
    let (given, named): (Rest<Value>, Kwargs) = from_args(args)?;
    if !named.has("caller") {
        return render(args);
    }
    let caller: Value = named.get("caller")?;
    let (ask, asked) = channel::<Asked>();
    let proxy = Arc::new(Caller { ask: Mutex::new(Some(ask)), busy: AtomicBool::new(false) });
    let mut lent = vec![("caller".to_owned(), Value::from_dyn_object(Arc::clone(&proxy)))];
    for key in named.args().filter(|key| *key != "caller") {
        lent.push((key.to_owned(), named.get(key)?));
    }
    let mut args: Vec<Value> = given.iter().cloned().collect();
    args.push(Kwargs::from_iter(lent).into());
    std::thread::scope(|scope| {
        let rendered = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, || {
            // Nobody asks after this, also not where a template has kept `caller`: the loop below ends.
            let _end = End(&proxy);
            render(&args)
        });
        let rendered = rendered.map_err(|error| Error::new(ErrorKind::InvalidOperation, error.to_string()))?;
        while let Ok((args, answer)) = asked.recv() {
            // One that no longer waits for the answer needs none.
            let _sent = answer.send(caller.call(state, &args));
        }
        rendered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `caller(…)` of a macro that is rendered by another thread than the one that called it.
#[derive(Debug)]
struct Caller {
    ask: Mutex<Option<Sender<Asked>>>,
    /// Whether an answer is waited for; whoever asks meanwhile is what was asked.
    busy: AtomicBool,
}

/// The end of the macro.
struct End<'c>(&'c Caller);

impl Drop for End<'_> {
    fn drop(&mut self) {
        drop(self.0.ask.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Object for Caller {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let refuse = |what: &'static str| Error::new(ErrorKind::InvalidOperation, what);
        let ask = self.ask.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let gone = || refuse("caller() can only be called by the macro that it was given to");
        let ask = ask.ok_or_else(gone)?;
        if self.busy.swap(true, Ordering::SeqCst) {
            return Err(refuse("caller() calls itself"));
        }
        let (answer, answered) = channel();
        let answered = match ask.send((args.to_vec(), answer)) {
            Ok(()) => answered.recv().unwrap_or_else(|_| Err(gone())),
            Err(_) => Err(gone()),
        };
        self.busy.store(false, Ordering::SeqCst);
        answered
    }
}

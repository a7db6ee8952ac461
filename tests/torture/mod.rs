//! Torture: the real process is killed at every place of the write path and at any moment, its storage, broker and
//! registry fail under it, others claim its stream; then the lake is compared with what was produced.
//!
//! `numbers` are the records, `topic` writes them where the process reads them, `world` is a project with the process
//! in it. `files` and `log` read the lake and `checker` judges it: they share no code with what is judged. The rest are
//! chapters. Each says its seed and how many kills it made; `TIDEMILL_TORTURE_PER_POINT` and `TIDEMILL_TORTURE_RANDOM` ask
//! for more than the few of a normal run (`just torture`), and no chapter takes much longer than
//! `TIDEMILL_TORTURE_SECONDS`.
mod checker;
mod claims;
mod files;
mod kills;
mod log;
mod numbers;
mod proxy;
mod services;
mod storage;
mod topic;
mod world;

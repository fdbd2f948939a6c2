//! The one call by which records go to librdkafka.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use super::topics::TopicName;

/// A topic of a producer, which it must not outlive.
pub struct Topic<'p> {
    handle: *mut rd::rd_kafka_topic_t,
    producer: PhantomData<&'p ()>,
}

impl<'p> Topic<'p> {
    pub fn new<C: ProducerContext + 'static>(
        producer: &'p BaseProducer<C>,
        name: &str,
    ) -> Topic<'p> {
        let name = TopicName::new(name);
        // SAFETY: the producer's handle is live, and the name is copied; the topic is destroyed before the producer.
        let handle = unsafe {
            rd::rd_kafka_topic_new(
                producer.client().native_ptr(),
                name.as_c_str().as_ptr(),
                ptr::null_mut(),
            )
        };
        Topic {
            handle,
            producer: PhantomData,
        }
    }
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once, before its producer.
        unsafe { rd::rd_kafka_topic_destroy(self.handle) };
    }
}

/// What one record has, but for its headers.
pub struct Record<'r, 'p> {
    pub topic: &'r Topic<'p>,
    pub partition: i32,
    pub key: Option<&'r [u8]>,
    pub value: Option<&'r [u8]>,
    /// Comes back with the delivery report.
    pub opaque: usize,
}

/// The arguments of a call, kept from one record to the next: their number is the application's where it emits an event.
#[derive(Default)]
pub struct Arguments(Vec<rd::rd_kafka_vu_t>);

impl Arguments {
    /// Gives the producer a copy of a record.
    #[inline]
    pub fn produce<'h, C: ProducerContext + 'static>(
        &mut self,
        producer: &BaseProducer<C>,
        record: &Record<'_, '_>,
        headers: impl Iterator<Item = (&'h CStr, &'h [u8])>,
    ) -> Result<(), RDKafkaErrorCode> {
        self.fill(record, headers);
        self.push(
            rd::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                i: rd::RD_KAFKA_MSG_F_COPY,
            },
        );
        // SAFETY: everything is copied by the call.
        unsafe { self.call(producer) }
    }

    /// Gives the producer a record whose key and value stay where they are.
    ///
    /// # Safety
    /// They stay there, and as they are, until the record's delivery is reported.
    pub unsafe fn produce_in_place<'h, C: ProducerContext + 'static>(
        &mut self,
        producer: &BaseProducer<C>,
        record: &Record<'_, '_>,
        headers: impl Iterator<Item = (&'h CStr, &'h [u8])>,
    ) -> Result<(), RDKafkaErrorCode> {
        self.fill(record, headers);
        // SAFETY: as the caller promises; headers are always copied.
        unsafe { self.call(producer) }
    }

    fn push(&mut self, vtype: rd::rd_kafka_vtype_t, u: rd::rd_kafka_vu_s__bindgen_ty_1) {
        self.0.push(rd::rd_kafka_vu_t { vtype, u });
    }

    fn fill<'h>(
        &mut self,
        record: &Record<'_, '_>,
        headers: impl Iterator<Item = (&'h CStr, &'h [u8])>,
    ) {
        use rd::rd_kafka_vtype_t as kind;
        let bytes = |bytes: Option<&[u8]>| rd::rd_kafka_vu_s__bindgen_ty_1 {
            mem: rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_1 {
                ptr: bytes.map_or(ptr::null_mut(), |bytes| {
                    bytes.as_ptr().cast_mut().cast::<c_void>()
                }),
                size: bytes.map_or(0, <[u8]>::len),
            },
        };
        self.0.clear();
        self.push(
            kind::RD_KAFKA_VTYPE_RKT,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                rkt: record.topic.handle,
            },
        );
        self.push(
            kind::RD_KAFKA_VTYPE_PARTITION,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                i32_: record.partition,
            },
        );
        self.push(kind::RD_KAFKA_VTYPE_KEY, bytes(record.key));
        self.push(kind::RD_KAFKA_VTYPE_VALUE, bytes(record.value));
        self.push(
            kind::RD_KAFKA_VTYPE_OPAQUE,
            rd::rd_kafka_vu_s__bindgen_ty_1 {
                ptr: record.opaque as *mut c_void,
            },
        );
        for (name, value) in headers {
            let header = rd::rd_kafka_vu_s__bindgen_ty_1__bindgen_ty_2 {
                name: name.as_ptr(),
                val: value.as_ptr().cast(),
                size: value.len() as isize,
            };
            self.push(
                kind::RD_KAFKA_VTYPE_HEADER,
                rd::rd_kafka_vu_s__bindgen_ty_1 { header },
            );
        }
    }

    /// # Safety
    /// What `fill` was given lives, and key and value until the record is delivered if they are not copied.
    unsafe fn call<C: ProducerContext + 'static>(
        &self,
        producer: &BaseProducer<C>,
    ) -> Result<(), RDKafkaErrorCode> {
        // SAFETY: the producer's handle is live; the arguments are as the caller promises.
        let code = unsafe {
            let error = rd::rd_kafka_produceva(
                producer.client().native_ptr(),
                self.0.as_ptr(),
                self.0.len(),
            );
            let code = rd::rd_kafka_error_code(error);
            if !error.is_null() {
                rd::rd_kafka_error_destroy(error);
            }
            code
        };
        match code {
            rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            code => Err(RDKafkaErrorCode::from(code)),
        }
    }
}

//! The contract on a real broker, and what goes wrong without one.
use std::time::Duration;

use rdkafka::producer::{BaseRecord, Producer};

use super::*;
use crate::error::Retry;
use crate::record::NewRecord;
use crate::testkit;
use crate::topic::{Broker, BrokerError};

fn broker(address: &str) -> KafkaBroker {
    KafkaBroker::open(KafkaSettings::new(address)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_on_apache_kafka() {
    let Some(address) = testkit::service("KAFKA") else { return };
    testkit::topic_contract(&broker(&address)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_broker_is_an_error_and_says_why() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (address, why) in [(free.as_str(), "refused"), ("no-such-host.invalid:9092", "resolve")] {
        let mut settings = KafkaSettings::new(address);
        settings.timeout = Duration::from_secs(2);
        let broker = KafkaBroker::open(settings).unwrap();

        for error in [
            broker.topics().await.unwrap_err(),
            broker.create("orders", 1).await.unwrap_err(),
            broker.produce("orders", vec![]).await.unwrap_err(),
            broker.publisher("movies").await.err().unwrap(),
        ] {
            assert_eq!(error.code(), "B0008", "{error:?}");
            assert_eq!(error.explain().retry(), Retry::Later);
            assert_eq!(error.explain().place(), Some(format!("broker `{address}`")));
            assert!(error.why().unwrap().to_lowercase().contains(why), "{error:?}");
            assert!(error.explain().fix().is_some());
        }
    }
}

#[test]
fn wrong_and_reserved_properties_are_refused_without_their_values() {
    let open = |key: &str, value: &str| {
        let settings = KafkaSettings::new("kafka://127.0.0.1:9").with(key, value).with("sasl.password", "hunter2");
        assert!(!format!("{settings:?}").contains("hunter2"));
        KafkaBroker::open(settings).err().unwrap()
    };
    for (key, value) in
        [("enable.auto.commit", "true"), ("no.such.thing", "x"), ("security.protocol", "pigeon"), ("acks", "0")]
    {
        let error = open(key, value);
        assert!(
            matches!(error.downcast_ref(), Some(BrokerError::Property { key: named, .. }) if named == key),
            "{error:?}"
        );
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

/// An open transaction holds back what committed readers see of the progress topic, also what came after it.
#[tokio::test(flavor = "multi_thread")]
async fn progress_behind_another_publishers_open_step_is_waited_for() {
    let Some(address) = testkit::service("KAFKA") else { return };
    let broker = broker(&address);
    let fresh = |name: &str| format!("{name}-{}", uuid::Uuid::new_v4().simple());
    let (topic, name) = (fresh("steps"), fresh("patient"));
    broker.create(&topic, 1).await.unwrap();
    drop(broker.publisher(&name).await.unwrap());
    // Somebody else writes to the progress topic and does not commit for a while.
    let mut other: rdkafka::ClientConfig = rdkafka::ClientConfig::new();
    other.set("bootstrap.servers", &address).set("transactional.id", fresh("other"));
    let other: rdkafka::producer::BaseProducer = other.create().unwrap();
    let wait = Duration::from_secs(30);
    tokio::task::block_in_place(|| {
        other.init_transactions(wait).unwrap();
        other.begin_transaction().unwrap();
        other.send(BaseRecord::to("_tidemill.progress").key("other").payload("open")).unwrap();
        other.flush(wait).unwrap();
    });
    let mut publisher = broker.publisher(&name);
    let mut publisher = tokio::select! {
        biased;
        _ = &mut publisher => panic!("progress was read past an open transaction"),
        () = tokio::time::sleep(Duration::from_secs(3)) => publisher,
    };

    tokio::task::block_in_place(|| other.abort_transaction(wait).unwrap());

    assert_eq!((&mut publisher).await.unwrap().progress(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_the_topic_does_not_take_is_too_big() {
    let Some(address) = testkit::service("KAFKA") else { return };
    let topic = format!("small-{}", uuid::Uuid::new_v4().simple());
    let big = || NewRecord { value: Some(vec![0_u8; 2_000_000].into()), ..NewRecord::default() };
    let broker = broker(&address);
    broker.create(&topic, 1).await.unwrap();
    let larger = KafkaBroker::open(KafkaSettings::new(&address).with("message.max.bytes", "4000000")).unwrap();

    // Once by our own limit, once by the broker's.
    assert_eq!(broker.produce(&topic, vec![big()]).await.unwrap_err().code(), "B0007");
    assert_eq!(larger.produce(&topic, vec![big()]).await.unwrap_err().code(), "B0007");
    let mut publisher = larger.publisher(&topic).await.unwrap();
    let mut refused = publisher.stage(&topic, vec![big()]).await;
    if refused.is_ok() {
        refused = publisher.commit("too big").await;
    }
    assert_eq!(refused.unwrap_err().code(), "B0007");
    publisher.commit("after it").await.unwrap();
    assert_eq!(publisher.progress(), Some("after it"));
}

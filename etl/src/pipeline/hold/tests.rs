use super::*;
use crate::pipeline::body::OnIncompatible;
use crate::pipeline::decide::Limits;
use crate::table::TableName;

fn landing(drain: bool, record_gaps: bool) -> Landing {
    Landing {
        stream: "s".to_owned(),
        topic: "t".to_owned(),
        table: TableName::new("bronze", "t"),
        format: "avro".to_owned(),
        subject: "t-value".to_owned(),
        on_incompatible: OnIncompatible::DeadLetter,
        columns: None,
        on_unknown: crate::pipeline::body::OnUnknown::default(),
        event_time: None,
        reading: crate::pipeline::Reading::default(),
        rules: Vec::new(),
        select: Vec::new(),
        unique_key: Vec::new(),
        zone: chrono_tz::UTC,
        limits: Limits { rows: 1, bytes: 1, linger: std::time::Duration::ZERO },
        drain,
        record_gaps,
        shared: false,
    }
}

fn holding(committed: Option<i64>) -> Holding {
    let landing = landing(false, false);
    let held = Held {
        app: landing.app(0),
        next: committed.unwrap_or(0),
        committed,
        epoch_app: landing.epoch_app(0),
        epoch: None,
    };
    Holding::from([(0, held)])
}

#[test]
fn a_new_stream_begins_at_what_is_left_and_has_lost_nothing() {
    let mut holding = holding(None);
    let (assigned, gaps) = assign(&landing(false, false), &[Bounds { earliest: 40, end: 90 }], &mut holding).unwrap();
    assert_eq!((assigned[0].from, assigned[0].to, gaps.len()), (40, None, 0));
    assert_eq!(holding[&0].next, 40);
}

#[test]
fn what_retention_removed_is_an_incident_or_a_recorded_gap() {
    let bounds = [Bounds { earliest: 40, end: 90 }];
    let refused = assign(&landing(false, false), &bounds, &mut holding(Some(7))).unwrap_err();
    assert!(matches!(refused, LandingError::Gap { wanted: 7, earliest: 40, .. }));

    let (assigned, gaps) = assign(&landing(true, true), &bounds, &mut holding(Some(7))).unwrap();
    assert_eq!(gaps, [Gap { partition: 0, from: 7, to: 40 }]);
    assert_eq!((assigned[0].from, assigned[0].to), (40, Some(90)));
    // A stream that has committed up to offset 0 had begun, too.
    let (_, gaps) = assign(&landing(true, true), &bounds, &mut holding(Some(0))).unwrap();
    assert_eq!(gaps.len(), 1);
}

#[test]
fn a_table_past_the_topics_end_is_another_topics() {
    let refused = assign(&landing(false, true), &[Bounds { earliest: 0, end: 5 }], &mut holding(Some(6)));
    assert!(matches!(refused, Err(LandingError::Ahead { wanted: 6, end: 5, .. })));
}

//! Contract suites that every kind must pass, and what tests need to find real services.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a contract suite fails by panicking"
)]
mod body_contract;
mod registry_contract;
mod sink_contract;
mod topic_contract;

pub use body_contract::{OpenBody, body_contract};
pub use registry_contract::registry_contract;
pub use sink_contract::{SinkHarness, sink_contract};
pub use topic_contract::topic_contract;

/// Returns the address of a real service, from `TIDEMILL_TEST_{name}`; says in one line that tests are skipped
/// if there is none.
pub fn service(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "tests find real services by variable")]
    let address = std::env::var(format!("TIDEMILL_TEST_{name}")).ok().filter(|address| !address.is_empty());
    if address.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
        {
            eprintln!("skipped: no TIDEMILL_TEST_{name}");
        }
    }
    address
}

//! What every driver of the store must do, whichever database is below it. A driver's test file gives a
//! [`Database`] and runs [`each_test`] over it.

pub(crate) mod audit;
pub(crate) mod journal;
pub(crate) mod plugins;
pub(crate) mod vault;

use std::time::Duration;

use keyward_egress::AuditSink;
use keyward_flow::Journal;
use keyward_model::{AuditEvent, AuditRecord, Principal, PrincipalKind, TenantId};
use keyward_registry::PluginStore;
use keyward_store::AuditFilter;
use keyward_vault::VaultStore;
use time::{OffsetDateTime, macros::datetime};

/// An empty database of its own for one test.
pub(crate) trait Database {
    /// The driver.
    type Store: VaultStore + Journal + AuditSink + PluginStore + Clone + Send + Sync + 'static;

    /// Another handle on the database, as another process would have it.
    async fn open(&self) -> Self::Store;

    /// Moves the ends of all leases into the future, as if they had been taken under a clock that was so far ahead.
    async fn postpone_leases(&self, by: Duration);

    /// Reads the audit trail.
    async fn audit(&self, store: &Self::Store, tenant: &TenantId, filter: &AuditFilter) -> Vec<AuditRecord>;
}

/// Gives the names of all tests to a macro that runs them over one driver.
macro_rules! each_test {
    ($run:ident) => {
        $run! {
            vault: [
                a_vault_is_created_once_with_its_first_key,
                a_new_root_key_replaces_every_wrapping_or_nothing,
                a_new_active_key_makes_the_others_decrypt_only,
                a_key_is_not_added_over_a_vault_that_has_changed,
                only_a_decrypt_only_key_is_removed,
                a_key_that_something_rests_under_is_not_removed,
                nothing_is_written_under_a_key_that_is_gone,
                a_connection_reads_back_as_written,
                a_name_belongs_to_one_connection_of_a_tenant,
                a_write_over_a_changed_record_is_a_conflict,
                of_writers_that_saw_the_same_version_one_wins,
                a_deleted_connection_is_gone_and_its_name_free,
                a_refresh_is_leased_to_one_at_a_time,
                a_lease_that_was_overtaken_cannot_write,
                an_ended_lease_is_overtaken,
                a_lease_of_a_wrong_clock_is_overtaken,
                a_waiting_authorization_is_taken_once,
                ended_authorizations_are_cleared,
                a_refused_change_leaves_no_audit_record,
            ],
            journal: [
                a_run_reads_back_as_written,
                an_unknown_run_is_told,
                appended_entries_and_their_snapshot_are_there_together,
                entries_are_found_by_their_numbers,
                entries_that_do_not_follow_are_refused_whole,
                a_claimed_run_is_not_claimed_again_until_it_is_released,
                an_ended_lease_is_overtaken_and_its_holder_fenced,
                a_renewed_lease_lasts,
                a_lease_of_a_wrong_clock_is_overtaken,
                a_stale_release_changes_nothing,
                of_claims_at_once_one_wins,
                runs_are_listed_newest_first_and_by_tenant,
            ],
            audit: [
                records_read_back_in_the_order_of_writing,
                a_filter_narrows_and_the_newest_are_kept,
                tenants_see_their_own_records,
                a_record_is_not_written_twice,
                a_record_that_cannot_be_written_takes_none_of_the_others_with_it,
                records_of_many_callers_are_all_there_when_they_are_told,
                a_record_is_written_although_its_caller_goes_away,
            ],
            plugins: [
                an_installed_connector_reads_back_as_written,
                a_connector_is_replaced_only_over_what_was_seen,
                removing_tells_whether_there_was_something,
                components_of_all_tenants_are_listed_once,
            ],
        }
    };
}
pub(crate) use each_test;

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

pub(crate) fn user(id: &str) -> Principal {
    Principal { kind: PrincipalKind::User, id: id.to_owned() }
}

/// A time with no more than the database keeps.
pub(crate) const NOON: OffsetDateTime = datetime!(2026-11-22 12:00:00.123456 UTC);

/// A record of a change in `tenant`.
pub(crate) fn record(tenant: &TenantId, change: &str) -> AuditRecord {
    AuditRecord::new(NOON, tenant, &user("ada"), AuditEvent::Connection { change: change.to_owned() })
}

/// The changes that the audit trail of a tenant tells of, in order.
pub(crate) async fn changes<D: Database>(database: &D, store: &D::Store, tenant: &TenantId) -> Vec<String> {
    let change = |record: AuditRecord| match record.event {
        AuditEvent::Connection { change } => change,
        other => panic!("{other:?}"),
    };
    database.audit(store, tenant, &AuditFilter::default()).await.into_iter().map(change).collect()
}

//! The chain of a tenant's audit records: what each one's digest is over, and the check that nothing was changed.
//!
//! The digest of a record is `SHA-256("keyward-audit-1\n" ‖ digest before ‖ number ‖ text)`: 32 bytes, which are zero
//! before the first record; the number from 1 on, as eight bytes, the highest first; and the text as it was written.
//! So the digest of the newest record is one over the whole trail. Whoever can write the file could make a new chain
//! from some record on, and the trail alone would not tell: that is what a [`AuditHead`] is for that was kept elsewhere.

use std::{fmt, str::FromStr};

use keyward_model::{AuditRecord, Digest, TenantId};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{PAGE, columns, row};
use crate::{
    DatabaseError, Store,
    record::{count, from_json, parsed, signed},
};

/// Where a trail stands: how many records it has, and the digest over all of them. Written
/// `<number>:sha256:<64 hexadecimal digits>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHead {
    /// The number of the newest record, from 1; 0 where there is none.
    pub number: u64,
    /// Its digest.
    pub digest: Digest,
}

impl AuditHead {
    /// A trail without a record.
    pub const EMPTY: AuditHead = AuditHead { number: 0, digest: Digest::from_sha256([0; 32]) };

    /// The trail with one record more.
    pub fn after(self, text: &str) -> Self {
        let number = self.number + 1;
        let mut hash = Sha256::new();
        hash.update(b"keyward-audit-1\n");
        hash.update(self.digest.as_bytes());
        hash.update(number.to_be_bytes());
        hash.update(text);
        Self { number, digest: Digest::from_sha256(hash.finalize().into()) }
    }
}

impl fmt::Display for AuditHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.number, self.digest)
    }
}

impl FromStr for AuditHead {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts =
            text.split_once(':').and_then(|(number, digest)| Some((number.parse().ok()?, digest.parse().ok()?)));
        let (number, digest) = parts.ok_or("write '<number>:sha256:<64 hexadecimal digits>'")?;
        Ok(Self { number, digest })
    }
}

/// What a check of a trail found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditVerdict {
    /// Where the trail stands, as far as it is sound.
    pub head: AuditHead,
    /// The first thing that is wrong.
    pub fault: Option<AuditFault>,
}

/// What is wrong with a trail. The number is that of the record which tells.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    /// A record is not there.
    #[error("record {0} is missing")]
    Missing(u64),
    /// A record is not the one that was written, or one before it is not.
    #[error("record {0} is not what was written, or not in its place")]
    Changed(u64),
    /// What finds a record says something else than the record.
    #[error("the columns by which record {0} is found do not say what it says")]
    Misfiled(u64),
    /// A row is there that is no link of the chain.
    #[error("{0} records are there that nobody wrote in their place")]
    PutIn(u64),
    /// The trail is not the one that was seen before.
    #[error("record {0} is not the one that was there when its digest was kept")]
    Replaced(u64),
}

/// A row: number, digest, columns as a JSON array, record.
type Link = (i64, String, String, String);

impl Store {
    /// Reads the whole trail of a tenant and checks each record, its place and its columns; where `known` was kept
    /// from an earlier check, also that the trail goes on from there.
    pub async fn verify_audit(
        &self,
        tenant: &TenantId,
        known: Option<AuditHead>,
    ) -> Result<AuditVerdict, DatabaseError> {
        self.told(async {
            let mut head = AuditHead::EMPTY;
            // One view of the database throughout, so that records which come meanwhile are not miscounted.
            let mut reader = self.readers.begin().await?;
            let broken = |head, fault| Ok(AuditVerdict { head, fault: Some(fault) });
            if let Some(known) = known.filter(|known| known.number == 0 && *known != head) {
                return broken(head, AuditFault::Replaced(known.number));
            }
            loop {
                let page: Vec<Link> = sqlx::query_as(concat!(
                    "SELECT number, digest, json_array(",
                    columns!(),
                    "), record FROM audit_records WHERE tenant = ?1 AND number > ?2 ORDER BY number LIMIT ?3"
                ))
                .bind(tenant.as_str())
                .bind(signed(head.number)?)
                .bind(PAGE)
                .fetch_all(&mut *reader)
                .await?;
                if page.is_empty() {
                    // A row whose number is no number of the chain, or twice there, was in no page.
                    let all = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM audit_records WHERE tenant = ?1");
                    let all: u64 = count("audit records", all.bind(tenant.as_str()).fetch_one(&mut *reader).await?)?;
                    if all > head.number {
                        return broken(head, AuditFault::PutIn(all - head.number));
                    }
                    let cut_off = known.filter(|known| known.number > head.number);
                    return Ok(AuditVerdict { head, fault: cut_off.map(|_| AuditFault::Missing(head.number + 1)) });
                }
                for link in page {
                    let next = match check(head, &link) {
                        Ok(next) => next,
                        Err(fault) => return broken(head, fault),
                    };
                    if known.is_some_and(|known| known.number == next.number && known != next) {
                        return broken(head, AuditFault::Replaced(next.number));
                    }
                    head = next;
                }
            }
        })
        .await
    }
}

/// The trail after a record that belongs behind `head`.
fn check(head: AuditHead, (number, digest, columns, text): &Link) -> Result<AuditHead, AuditFault> {
    let next = head.after(text);
    if i64::try_from(next.number).is_ok_and(|expected| *number > expected) {
        return Err(AuditFault::Missing(next.number));
    }
    if parsed("digest", digest).ok() != Some(next.digest) {
        return Err(AuditFault::Changed(next.number));
    }
    let found_by = |text: &str| row(&from_json::<AuditRecord>("audit record", text).ok()?).ok();
    let expected = found_by(text).ok_or(AuditFault::Changed(next.number))?;
    match from_json::<Vec<Value>>("columns", columns) {
        Ok(columns) if columns == expected.columns => Ok(next),
        _ => Err(AuditFault::Misfiled(next.number)),
    }
}

//! The operator's policy as it was last agreed to. The file that the operator writes is compared with it.

use keyward_model::{AuditRecord, Principal};
use time::OffsetDateTime;

use crate::{
    DatabaseError, Store, audit,
    fault::Failure,
    record::{kind, micros, principal, time},
};

/// A policy that was agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedPolicy {
    /// The text of the file.
    pub text: String,
    /// Who agreed.
    pub by: Principal,
    /// When.
    pub at: OffsetDateTime,
}

/// A row: text, kind and id of the principal, time.
type Row = (String, String, String, i64);

impl Store {
    /// The policy that was last agreed to; `None` where there never was one.
    pub async fn accepted_policy(&self) -> Result<Option<AcceptedPolicy>, DatabaseError> {
        self.told(async {
            let row: Option<Row> = sqlx::query_as(
                "SELECT text, accepted_by_kind, accepted_by_id, accepted_at FROM operator_policy WHERE id = 1",
            )
            .fetch_optional(&self.readers)
            .await?;
            let accepted =
                |(text, kind, id, at): Row| Ok(AcceptedPolicy { text, by: principal(&kind, id)?, at: time(at)? });
            row.map(accepted).transpose().map_err(Failure::Database)
        })
        .await
    }

    /// Puts `new` in the place of the policy with the text `old`, and `record` into the audit trail. Nothing is changed
    /// where the same text was agreed to meanwhile, nor, with the answer `false`, where another one was.
    pub async fn accept_policy(
        &self,
        old: Option<&str>,
        new: &AcceptedPolicy,
        record: &AuditRecord,
    ) -> Result<bool, DatabaseError> {
        self.told(async {
            let mut tx = self.write().await?;
            let current: Option<String> =
                sqlx::query_scalar("SELECT text FROM operator_policy WHERE id = 1").fetch_optional(&mut *tx).await?;
            if current.as_deref() == Some(&new.text) {
                return Ok(true);
            }
            if current.as_deref() != old {
                return Ok(false);
            }
            sqlx::query(
                "INSERT OR REPLACE INTO operator_policy (id, text, accepted_by_kind, accepted_by_id, accepted_at)
                 VALUES (1, ?1, ?2, ?3, ?4)",
            )
            .bind(&new.text)
            .bind(kind(&new.by))
            .bind(&new.by.id)
            .bind(micros(new.at))
            .execute(&mut *tx)
            .await?;
            audit::add(&mut tx, record).await?;
            self.commit(tx).await?;
            Ok(true)
        })
        .await
    }
}

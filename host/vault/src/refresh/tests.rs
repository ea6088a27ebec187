//! Refreshes against an authorization server that rotates strictly: what must hold when something goes wrong.

use std::sync::Arc;

use http::header;
use keyward_model::{ConnectionFacts, ConnectionState, Reason, SendError, SendErrorKind};
use serde_json::json;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    credential::{Live, Material},
    oauth::fake::{Fault, World, new_connection},
    secret::Secret,
    store::RefreshAttempt,
    token::RawReply,
    vault::Vault,
};

async fn token(vault: &Vault, facts: &ConnectionFacts) -> Result<String, SendError> {
    vault.credential_for(&facts.tenant, &facts.id).await.map(|live| text(&live))
}

fn text(live: &Live) -> String {
    match &live.material {
        Material::Token(token) => token.expose_str().unwrap().to_owned(),
        _ => panic!("a grant gives tokens"),
    }
}

/// The second at which a token of an hour is certainly due, and one at which it has ended.
const DUE: u64 = 3300;
const ENDED: u64 = 3600;

#[tokio::test]
async fn good_token_is_used_without_asking_anybody() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(3000);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1");
    assert_eq!(world.server.token_requests(), 0);
}

#[tokio::test]
async fn due_token_is_refreshed_and_both_tokens_are_replaced() {
    let world = World::new().await;
    let facts = world.connect().await;
    for generation in 2..4 {
        world.server.clock.advance(DUE);
        assert_eq!(token(&world.vault, &facts).await.unwrap(), format!("test-at-{generation}"));
    }
    let after = world.facts(&facts).await;
    assert_eq!(after.expires_at, Some(world.server.clock.true_time() + time::Duration::hours(1)));
    assert_eq!(world.store.audited(), ["initialised", "created", "refreshed", "refreshed"]);
    let seen = &world.server.state().seen;
    assert!(seen.iter().all(|seen| !seen.form.contains_key("scope") && !seen.form.contains_key("resource")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_in_two_processes_make_one_refresh() {
    let world = World::new().await;
    let facts = world.connect().await;
    let other = world.other_process().await;
    world.server.clock.advance(ENDED);
    let calls = (0..40).map(|index| {
        let (vault, facts) = (if index % 2 == 0 { &world.vault } else { &other }.clone(), facts.clone());
        tokio::spawn(async move { token(&vault, &facts).await.unwrap() })
    });
    for call in futures_util::future::join_all(calls).await {
        assert_eq!(call.unwrap(), "test-at-2");
    }
    assert_eq!(world.server.token_requests(), 1);
    assert!(!world.server.state().dead);
}

#[tokio::test]
async fn caller_with_a_good_token_does_not_wait_for_anothers_refresh() {
    let world = World::new().await;
    let facts = world.connect().await;
    let other = world.other_process().await;
    world.server.clock.advance(DUE);
    let (came, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    world.server.fault(Fault::Hold(came.clone(), go.clone()));
    let first = tokio::spawn({
        let (vault, facts) = (world.vault.clone(), facts.clone());
        async move { token(&vault, &facts).await.unwrap() }
    });
    came.notified().await;
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1", "same process");
    assert_eq!(token(&other, &facts).await.unwrap(), "test-at-1", "other process");
    go.notify_one();
    assert_eq!(first.await.unwrap(), "test-at-2");
    assert_eq!(world.server.token_requests(), 1);
}

#[tokio::test]
async fn caller_that_goes_away_does_not_take_the_reply_with_it() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(ENDED);
    let (came, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    world.server.fault(Fault::Hold(came.clone(), go.clone()));
    let caller = tokio::spawn({
        let (vault, facts) = (world.vault.clone(), facts.clone());
        async move { token(&vault, &facts).await.map(drop) }
    });
    came.notified().await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    go.notify_one();
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
    assert_eq!(world.server.token_requests(), 1);
}

#[tokio::test]
async fn token_at_hand_is_used_to_its_end_while_the_provider_is_down() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(DUE);
    world.server.fault(Fault::Unreached);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1");
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1");
    assert_eq!(world.server.token_requests(), 1, "a failed refresh is not tried again at once");

    // The request was not sent, so the refresh token is as good as ever and no mark holds it back.
    world.server.clock.advance(30);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
}

#[tokio::test]
async fn ended_token_and_a_provider_that_is_down_is_an_error_that_passes() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(ENDED);
    world.server.fault(Fault::Answer(503, json!({"error": "temporarily_unavailable"})));
    let error = token(&world.vault, &facts).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::Unreachable);
    assert_eq!(world.facts(&facts).await.state, ConnectionState::Active);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
}

#[tokio::test]
async fn provider_that_asks_for_patience_gets_it() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(ENDED);
    world.server.fault(Fault::AnswerWith(429, json!({}), header::RETRY_AFTER, "60"));
    for _ in 0..3 {
        let error = token(&world.vault, &facts).await.unwrap_err();
        assert_eq!(error.kind, SendErrorKind::RateLimited { retry_after: Some(std::time::Duration::from_secs(60)) });
    }
    assert_eq!(world.server.token_requests(), 1);
    world.server.clock.advance(60);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
}

#[tokio::test]
async fn lost_reply_of_a_strict_provider_costs_the_connection_only_when_its_token_ends() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(DUE);
    world.server.fault(Fault::LoseReply);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1");
    world.server.clock.advance(60);
    assert_eq!(token(&world.other_process().await, &facts).await.unwrap(), "test-at-1");
    assert_eq!(world.server.token_requests(), 1, "the refresh token may be used up and is not sent again");

    world.server.clock.advance(ENDED);
    let error = token(&world.vault, &facts).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::ReconnectRequired);
    assert!(error.message.contains("was cut off"), "{error}");
    let state = world.facts(&facts).await.state;
    assert!(matches!(state, ConnectionState::NeedsReconnect(reason) if reason.contains("was cut off")));
    assert_eq!(world.store.audited(), ["initialised", "created", "refresh-failed"]);

    let again = token(&world.vault, &facts).await.unwrap_err();
    assert_eq!(again.kind, SendErrorKind::ReconnectRequired);
    assert_eq!(world.server.token_requests(), 2, "a dead grant is not tried again");
}

#[tokio::test]
async fn lost_reply_of_a_provider_that_does_not_rotate_is_asked_for_again() {
    let file = "id = 'steady'\ntitle = 'Steady'\nmethods = ['oauth2']\nissuer = 'https://as.example'\n[token]\nrotation = 'none'";
    let world = World::with_provider("steady", file).await;
    let facts = world.connect_as(new_connection("steady", &["read"])).await;
    world.server.state().rotates = false;
    world.server.clock.advance(ENDED);
    world.server.fault(Fault::LoseReply);
    assert_eq!(token(&world.vault, &facts).await.unwrap_err().kind, SendErrorKind::Unreachable);
    world.server.state().generation = 1;
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
}

/// What a crash right after the mark leaves behind: the mark, and a lease that has not ended.
async fn crash_after_the_mark(world: &World, facts: &ConnectionFacts) {
    let mut opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    let sent = opened.credential.grant().unwrap().refresh_token().unwrap().duplicate();
    opened.row.refresh = Some(RefreshAttempt {
        id: Uuid::now_v7(),
        token_fingerprint: world.vault.keyring.fingerprint(&facts.tenant, "refresh", sent.expose()).to_vec(),
        started_at: world.server.clock.true_time(),
    });
    world.vault.write(&mut opened, None, None).await.unwrap();
}

#[tokio::test]
async fn crash_after_the_mark_holds_the_refresh_token_back_until_the_end() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(DUE);
    crash_after_the_mark(&world, &facts).await;
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1");
    assert_eq!(world.server.token_requests(), 0);
    world.server.clock.advance(ENDED);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2", "it had not been sent after all");
    assert!(world.vault.read(&facts.tenant, &facts.id).await.unwrap().row.refresh.is_none());
}

#[tokio::test]
async fn crash_before_the_reply_was_read_loses_nothing() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(DUE);
    let mut opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    opened.credential.grant_mut().unwrap().unread = Some(RawReply {
        status: 200,
        received_at: world.server.clock.true_time(),
        clock_offset: 0,
        body: Secret::from(json!({"access_token": "test-at-kept", "refresh_token": "test-rt-kept"}).to_string()),
    });
    world.vault.write(&mut opened, None, None).await.unwrap();

    assert_eq!(token(&world.other_process().await, &facts).await.unwrap(), "test-at-kept");
    assert_eq!(world.server.token_requests(), 0);
    let opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    let grant = opened.credential.grant().unwrap();
    assert!(grant.unread.is_none());
    assert_eq!(grant.refresh_token().unwrap().expose_str(), Some("test-rt-kept"));
}

#[tokio::test]
async fn kept_reply_that_holds_no_tokens_is_dropped_and_the_old_ones_stay() {
    let world = World::new().await;
    let facts = world.connect().await;
    let mut opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    opened.credential.grant_mut().unwrap().unread = Some(RawReply {
        status: 200,
        received_at: world.server.clock.true_time(),
        clock_offset: 0,
        body: Secret::from("<html>".to_owned()),
    });
    world.vault.write(&mut opened, None, None).await.unwrap();
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1");
    let opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    assert!(opened.credential.grant().unwrap().unread.is_none());
}

#[tokio::test]
async fn full_disk_before_the_request_sends_nothing_and_after_it_loses_nothing() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(ENDED);
    world.store.tables().disk_full = true;
    let error = token(&world.vault, &facts).await.unwrap_err();
    assert_eq!(error.reason, Reason::StoreFailed);
    assert_eq!(world.server.token_requests(), 0);

    world.store.tables().disk_full = false;
    let store = world.store.clone();
    world.server.fault(Fault::Meanwhile(Box::pin(async move { store.tables().disk_full = true })));
    assert_eq!(token(&world.vault, &facts).await.unwrap_err().reason, Reason::StoreFailed);
    assert_eq!(token(&world.vault, &facts).await.unwrap_err().reason, Reason::StoreFailed);
    world.store.tables().disk_full = false;
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
    assert_eq!(world.server.token_requests(), 1);
    assert_eq!(world.facts(&facts).await.state, ConnectionState::Active);
}

/// Writes the row again as it is, as a rotation of the keys does.
async fn touch(vault: Vault, facts: ConnectionFacts) {
    let mut opened = vault.read(&facts.tenant, &facts.id).await.unwrap();
    vault.write(&mut opened, None, None).await.unwrap();
}

#[tokio::test]
async fn row_that_changes_during_the_request_does_not_cost_the_reply() {
    let world = World::new().await;
    let facts = world.connect().await;
    let other = world.other_process().await;
    world.server.clock.advance(ENDED);
    world.server.fault(Fault::Meanwhile(Box::pin(touch(other, facts.clone()))));
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
    let opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    assert_eq!(opened.credential.grant().unwrap().refresh_token().unwrap().expose_str(), Some("test-rt-2"));
    assert!(opened.row.refresh.is_none());
}

#[tokio::test]
async fn row_that_changes_before_the_mark_is_read_again_and_nothing_is_sent_twice() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(ENDED);
    world.store.tables().before_update = Some(Box::new({
        let id = facts.id;
        // The lease is overtaken: a newer fence is out when the mark is written.
        move |tables| tables.leases.get_mut(&id).unwrap().0.fence += 1
    }));
    // The overtaker never does anything, and its lease ends.
    let waiting = tokio::spawn({
        let (vault, facts) = (world.vault.clone(), facts.clone());
        async move { token(&vault, &facts).await.unwrap() }
    });
    loop {
        tokio::task::yield_now().await;
        if world.store.tables().before_update.is_none() {
            break;
        }
    }
    assert_eq!(world.server.token_requests(), 0, "who was overtaken sends nothing");
    world.store.tables().leases.get_mut(&facts.id).unwrap().1 = None;
    assert_eq!(waiting.await.unwrap(), "test-at-2");
    assert_eq!(world.server.token_requests(), 1);
}

#[tokio::test]
async fn invalid_grant_after_a_sibling_won_brings_the_siblings_token() {
    let world = World::new().await;
    let facts = world.connect().await;
    let sibling = world.other_process().await;
    world.server.clock.advance(ENDED);
    let won = {
        let (facts, at) = (facts.clone(), world.server.clock.true_time());
        async move {
            let mut opened = sibling.read(&facts.tenant, &facts.id).await.unwrap();
            let tokens = opened.credential.grant_mut().unwrap().tokens.as_mut().unwrap();
            tokens.access = Secret::from("test-at-sibling".to_owned());
            tokens.refresh = Some(Secret::from("test-rt-sibling".to_owned()));
            tokens.expires_at = Some(at + time::Duration::hours(1));
            sibling.write(&mut opened, None, None).await.unwrap();
        }
    };
    world.server.state().dead = true;
    world.server.fault(Fault::Meanwhile(Box::pin(won)));
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-sibling");
    assert_eq!(world.facts(&facts).await.state, ConnectionState::Active);
}

#[tokio::test]
async fn invalid_grant_ends_the_connection_and_deletes_nothing() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.state().dead = true;
    world.server.clock.advance(DUE);
    let error = token(&world.vault, &facts).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::ReconnectRequired);
    assert!(error.hint.is_some());
    let opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    assert!(matches!(opened.row.facts.state, ConnectionState::NeedsReconnect(_)));
    assert!(opened.credential.grant().unwrap().refresh_token().is_some());
}

#[tokio::test]
async fn error_with_status_200_is_an_error_and_leaves_no_reply_behind() {
    let world = World::new().await;
    let mut new = new_connection("github", &["repo"]);
    new.name = "hub".parse().unwrap();
    world.server.state().post_only = true;
    let facts = world.connect_as(new).await;
    world.server.clock.advance(ENDED);
    let refusal = json!({"error": "bad_refresh_token", "error_description": "test-rt-1 is bad"});
    world.server.fault(Fault::Answer(200, refusal));
    let error = token(&world.vault, &facts).await.unwrap_err();
    assert_eq!(error.kind, SendErrorKind::ReconnectRequired);
    assert!(!error.message.contains("test-rt-1"), "{error}");
    let opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    assert!(opened.credential.grant().unwrap().unread.is_none());
}

#[tokio::test]
async fn refused_client_leaves_the_grant_alone_and_is_told_once() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(DUE);
    world.server.state().post_only = true;
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1", "good to its end");
    assert!(matches!(world.facts(&facts).await.state, ConnectionState::ClientRefused(_)));
    world.server.clock.advance(ENDED);
    for _ in 0..3 {
        let error = token(&world.vault, &facts).await.unwrap_err();
        assert!(error.message.contains("client registration"), "{error}");
    }
    assert_eq!(world.server.token_requests(), 2, "a refused client is left alone for a while");
    assert_eq!(world.store.audited(), ["initialised", "created", "refresh-failed"]);

    world.server.state().post_only = false;
    world.server.clock.advance(30);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
    assert_eq!(world.facts(&facts).await.state, ConnectionState::Active);
}

#[tokio::test]
async fn date_that_no_clock_shows_is_not_believed() {
    let world = World::new().await;
    let facts = world.connect().await;
    world.server.clock.advance(ENDED);
    let reply = json!({"access_token": "test-at-2", "refresh_token": "test-rt-2", "expires_in": 3600});
    world.server.fault(Fault::AnswerWith(200, reply, header::DATE, "Fri, 31 Dec 9999 23:59:59 GMT"));
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
    assert_eq!(token(&world.other_process().await, &facts).await.unwrap(), "test-at-2");
    let end = world.server.clock.true_time() + time::Duration::hours(1);
    assert_eq!(world.facts(&facts).await.expires_at, Some(end));
}

#[tokio::test]
async fn clock_that_is_wrong_by_an_hour_changes_nothing() {
    for wrong in [3600, -3600] {
        let world = World::new().await;
        world.server.clock.be_wrong_by(wrong);
        let facts = world.connect().await;
        assert_eq!(facts.expires_at, Some(world.server.clock.true_time() + time::Duration::hours(1)));
        world.server.clock.advance(3000);
        assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1", "{wrong} s");
        assert_eq!(token(&world.other_process().await, &facts).await.unwrap(), "test-at-1", "{wrong} s");
        world.server.clock.advance(300);
        assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2", "{wrong} s");
        assert_eq!(world.server.token_requests(), 1);
    }
}

#[tokio::test]
async fn refused_token_is_replaced_once_for_all_who_used_it() {
    let world = World::new().await;
    let facts = world.connect().await;
    let used = world.vault.credential_for(&facts.tenant, &facts.id).await.unwrap().fingerprint;
    let after = |vault: Vault| {
        let facts = facts.clone();
        async move { vault.credential_after_refusal(&facts.tenant, &facts.id, &used).await.unwrap() }
    };
    let other = world.other_process().await;
    let both = tokio::join!(after(world.vault.clone()), after(world.vault.clone()), after(other.clone()));
    for live in [both.0, both.1, both.2] {
        assert_eq!(text(&live.unwrap()), "test-at-2");
    }
    assert_eq!(world.server.token_requests(), 1);
    assert_eq!(text(&after(other).await.unwrap()), "test-at-2", "who comes late gets the stored one");
    assert_eq!(world.server.token_requests(), 1);

    let fresh = world.vault.credential_for(&facts.tenant, &facts.id).await.unwrap().fingerprint;
    let refused = world.vault.credential_after_refusal(&facts.tenant, &facts.id, &fresh).await.unwrap();
    assert!(refused.is_none(), "a server that refuses a token this fresh refuses something else");
    assert_eq!(world.server.token_requests(), 1);
}

#[tokio::test]
async fn refused_token_that_cannot_be_refreshed_is_left_to_the_caller() {
    let world = World::new().await;
    world.server.state().reply = json!({"refresh_token": null, "expires_in": null});
    let facts = world.connect().await;
    let live = world.vault.credential_for(&facts.tenant, &facts.id).await.unwrap();
    let other = world.vault.credential_after_refusal(&facts.tenant, &facts.id, &live.fingerprint).await.unwrap();
    assert!(other.is_none());
    world.server.clock.advance(1_000_000);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1", "no end is known, so it has none");
    assert_eq!(world.server.token_requests(), 0);
}

#[tokio::test]
async fn token_that_has_ended_and_has_no_successor_needs_a_person() {
    let world = World::new().await;
    world.server.state().reply = json!({"refresh_token": null});
    let facts = world.connect().await;
    world.server.clock.advance(DUE);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1");
    world.server.clock.advance(ENDED);
    assert_eq!(token(&world.vault, &facts).await.unwrap_err().kind, SendErrorKind::ReconnectRequired);
    assert!(matches!(world.facts(&facts).await.state, ConnectionState::NeedsReconnect(_)));
    assert_eq!(world.server.token_requests(), 0);
}

#[tokio::test]
async fn what_a_refresh_leaves_out_stays_as_it_was() {
    let world = World::new().await;
    world.server.state().reply = json!({"scope": "read write"});
    let facts = world.connect().await;
    {
        let mut state = world.server.state();
        state.rotates = false;
        state.reply = json!({"expires_in": null});
    }
    world.server.clock.advance(ENDED);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-2");
    let opened = world.vault.read(&facts.tenant, &facts.id).await.unwrap();
    assert_eq!(opened.credential.grant().unwrap().refresh_token().unwrap().expose_str(), Some("test-rt-1"));
    assert_eq!(opened.row.facts.granted_scopes, facts.granted_scopes);
    assert_eq!(opened.row.facts.expires_at, None);
}

#[tokio::test]
async fn scopes_that_a_refresh_narrows_are_narrowed_here() {
    let world = World::new().await;
    world.server.state().reply = json!({"scope": "read write"});
    let facts = world.connect().await;
    world.server.state().reply = json!({"scope": "read"});
    world.server.clock.advance(ENDED);
    token(&world.vault, &facts).await.unwrap();
    assert_eq!(world.facts(&facts).await.granted_scopes.into_iter().collect::<Vec<_>>(), ["read"]);
}

#[tokio::test]
async fn client_that_acts_for_itself_asks_with_its_own_secret() {
    let world = World::new().await;
    let facts = world.vault.connect_client_credentials(new_connection("oidc", &["b", "a"])).await.unwrap();
    assert_eq!(facts.method, "client-credentials");
    world.server.clock.advance(ENDED);
    world.server.fault(Fault::LoseReply);
    assert_eq!(token(&world.vault, &facts).await.unwrap_err().kind, SendErrorKind::Unreachable);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-3");
    let last = world.server.state().seen.last().unwrap().clone();
    assert_eq!(last.form.get("grant_type").map(String::as_str), Some("client_credentials"));
    assert_eq!(last.form.get("scope").map(String::as_str), Some("a b"));
}

#[tokio::test]
async fn lost_reply_to_a_client_that_acts_for_itself_holds_nothing_back() {
    let world = World::new().await;
    let facts = world.vault.connect_client_credentials(new_connection("oidc", &["a"])).await.unwrap();
    world.server.clock.advance(DUE);
    world.server.fault(Fault::LoseReply);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-1");
    world.server.clock.advance(60);
    assert_eq!(token(&world.vault, &facts).await.unwrap(), "test-at-3");
}

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use futures_util::stream;
use keyward_model::{CallId, ConnectorId, Digest, Principal, RunId, manifest::Limits};

use super::{lane::tests::once, *};

fn call(connection: Option<ConnectionId>, run: Option<RunId>) -> CallContext {
    let limits = Limits { wall_ms: 100_000, ..Limits::default() };
    CallContext {
        tenant: TenantId::default(),
        principal: Principal::local_administrator(),
        on_behalf_of: None,
        flow: None,
        call: CallId::new(),
        run,
        step: None,
        connector: ConnectorId {
            name: "github".parse().unwrap(),
            version: "1.0.0".into(),
            digest: Digest::from_sha256([7; 32]),
        },
        action: "act".parse().unwrap(),
        connection,
        limits,
        memory: Default::default(),
        deadline: (Instant::now() + Duration::from_millis(limits.wall_ms)).into_std(),
        refusals: Default::default(),
    }
}

fn budgets(change: impl FnOnce(&mut BudgetConfig)) -> Arc<Budgets> {
    let mut config = BudgetConfig::default();
    change(&mut config);
    Budgets::new(config)
}

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

async fn turns(budgets: &Arc<Budgets>, ctx: &CallContext, to: &str) -> Result<Turns, SendError> {
    budgets.share(ctx).turns(ctx, &url(to)).await
}

fn retry_after(seconds: &str) -> Vec<(String, Vec<u8>)> {
    vec![("retry-after".to_owned(), seconds.as_bytes().to_vec())]
}

const A: &str = "https://a.example/x";

#[tokio::test(start_paused = true)]
async fn silence_is_of_one_connection_at_one_server() {
    let budgets = budgets(|_| {});
    let (mine, other) = (call(Some(ConnectionId::new()), None), call(Some(ConnectionId::new()), None));
    turns(&budgets, &mine, A).await.unwrap().heard(429, &retry_after("3600"));
    // Whichever call of it asks, and wherever at the server.
    let again = call(mine.connection, Some(RunId::new()));
    let error = turns(&budgets, &again, "https://a.example/y").await.unwrap_err();
    let kind = SendErrorKind::RateLimited { retry_after: Some(Duration::from_secs(3_600)) };
    assert_eq!((error.kind, error.reason, error.sent), (kind, Reason::RateLimited, Sent::No));
    assert_eq!(error.message, "a.example wants no more requests for 3600 s, which is longer than the call lasts");
    for elsewhere in ["https://b.example/", "https://a.example:444/", "http://a.example/"] {
        assert!(turns(&budgets, &mine, elsewhere).await.is_ok(), "{elsewhere}");
    }
    assert!(turns(&budgets, &other, A).await.is_ok());
    let without = call(None, None);
    assert!(turns(&budgets, &without, A).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_silent_server_holds_nothing_that_others_need() {
    let budgets = budgets(|config| {
        config.connection.in_flight = NonZeroU32::MIN;
        config.connector.in_flight = NonZeroU32::MIN;
    });
    let mine = call(Some(ConnectionId::new()), None);
    turns(&budgets, &mine, A).await.unwrap().heard(503, &retry_after("30"));
    let mut waiting = Box::pin(turns(&budgets, &mine, A));
    assert!(once(&mut waiting).await.is_pending());
    assert!(turns(&budgets, &mine, "https://b.example/").await.is_ok());
    assert!(turns(&budgets, &call(Some(ConnectionId::new()), None), A).await.is_ok());
    let start = Instant::now();
    waiting.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn silence_that_began_while_it_waited_for_its_connection_holds_for_a_request() {
    let budgets = budgets(|config| config.connection.in_flight = NonZeroU32::MIN);
    let ctx = call(Some(ConnectionId::new()), None);
    let first = turns(&budgets, &ctx, A).await.unwrap();
    let mut second = Box::pin(turns(&budgets, &ctx, A));
    assert!(once(&mut second).await.is_pending());
    first.heard(429, &retry_after("20"));
    drop(first);
    let start = Instant::now();
    second.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn the_smaller_of_two_budgets_counts() {
    for (of_connection, of_connector, what) in [(1, 2, "the connection"), (2, 1, "the connector")] {
        let budgets = budgets(|config| {
            config.connection.in_flight = NonZeroU32::new(of_connection).unwrap();
            config.connector.in_flight = NonZeroU32::new(of_connector).unwrap();
        });
        let ctx = call(Some(ConnectionId::new()), None);
        let _held = turns(&budgets, &ctx, A).await.unwrap();
        let error = turns(&budgets, &ctx, A).await.unwrap_err();
        assert!(error.message.starts_with(what), "{}", error.message);
        assert_eq!((error.kind, error.reason), (SendErrorKind::RateLimited { retry_after: None }, Reason::RateLimited));
        // A tenth of the call's time is left to tell of it.
        assert_eq!((Instant::from_std(ctx.deadline) - Instant::now()).as_secs(), 10);
    }
}

/// Dropped after every number of polls, while what it waits for comes free lane by lane.
#[tokio::test(start_paused = true)]
async fn request_that_is_dropped_at_any_moment_gives_back_every_turn() {
    let mut was_ready = false;
    for polls in 0..12 {
        let budgets = budgets(|config| {
            config.connection.in_flight = NonZeroU32::MIN;
            config.connector.in_flight = NonZeroU32::new(2).unwrap();
        });
        let mine = call(Some(ConnectionId::new()), None);
        let mut held = vec![turns(&budgets, &mine, A).await.unwrap()];
        held.push(turns(&budgets, &call(Some(ConnectionId::new()), None), A).await.unwrap());
        let mut dropped = Box::pin(turns(&budgets, &mine, A));
        for poll in 0..polls {
            if poll == 2 {
                // Its connection is free, and the connector is taken by another at once.
                held.remove(0);
                held.push(turns(&budgets, &call(Some(ConnectionId::new()), None), A).await.unwrap());
            }
            if poll == 5 {
                held[0].heard(429, &retry_after("1"));
            }
            if poll == 7 {
                held.clear();
            }
            if let std::task::Poll::Ready(turns) = once(&mut dropped).await {
                was_ready = true;
                drop(turns);
                break;
            }
            tokio::time::advance(Duration::from_millis(300)).await;
        }
        drop(dropped);
        drop(held);
        turns(&budgets, &mine, A).await.unwrap();
        tokio::time::advance(Duration::from_secs(10_000)).await;
        let lanes = budgets.lanes.lock().unwrap();
        let all = lanes.origins.lanes.values().chain(lanes.connections.lanes.values());
        for lane in all.chain(lanes.connectors.lanes.values()) {
            assert!(lane.is_idle(Instant::now()), "after {polls} polls: {lane:?}");
        }
    }
    assert!(was_ready);
}

#[tokio::test(start_paused = true)]
async fn bytes_count_for_connection_and_connector() {
    let budgets = budgets(|config| {
        config.connection.request_bytes_per_hour = Some(10);
        config.connector.response_bytes_per_hour = Some(10);
    });
    let (mine, other) = (call(Some(ConnectionId::new()), None), call(Some(ConnectionId::new()), None));
    let (mine, other) = (budgets.share(&mine), budgets.share(&other));
    mine.sending(10).unwrap();
    other.sending(10).unwrap();
    let error = mine.sending(1).unwrap_err();
    assert_eq!((error.reason, error.sent), (Reason::TransferLimit, Sent::No));
    assert!(error.hint.unwrap().contains("`request_bytes_per_hour` in [limits.connection]"));

    let body = || -> BodyStream { Box::pin(stream::iter(["abcd"; 4]).map(|text| Ok(Bytes::from(text)))) };
    let read: Vec<_> = other.incoming(body()).collect().await;
    assert_eq!(read.len(), 3, "it ends with the error");
    assert_eq!(read[2].as_ref().unwrap_err().reason, Reason::TransferLimit);
    assert_eq!(read[2].as_ref().unwrap_err().sent, Sent::Yes);
    let read: Vec<_> = mine.incoming(body()).collect().await;
    assert!(read[0].is_err(), "the connector's other connection has used it up");
    let Body::Stream { chunks, .. } = mine.outgoing(Body::Stream { length: None, chunks: body() }) else { panic!() };
    let sent: Vec<_> = chunks.collect().await;
    assert_eq!(sent[0].as_ref().unwrap_err().sent, Sent::Maybe);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_uses_is_forgotten_and_silence_only_where_there_is_too_much_of_it() {
    let budgets = budgets(|_| {});
    let held = turns(&budgets, &call(Some(ConnectionId::new()), None), A).await.unwrap();
    for _ in 0..2_000 {
        turns(&budgets, &call(Some(ConnectionId::new()), None), A).await.unwrap();
    }
    {
        let lanes = budgets.lanes.lock().unwrap();
        assert!(lanes.origins.lanes.len() <= FIRST_SWEEP, "{}", lanes.origins.lanes.len());
        assert!(lanes.connections.lanes.len() <= FIRST_SWEEP && lanes.connectors.lanes.len() == 1);
    }
    // A connector with an endpoint for many hosts, each of which wants silence.
    let ctx = call(Some(ConnectionId::new()), None);
    for number in 0..2 * MAX_ORIGINS {
        let to = format!("https://{number}.example/");
        turns(&budgets, &ctx, &to).await.unwrap().heard(429, &retry_after("3600"));
        let known = budgets.lanes.lock().unwrap().origins.lanes.len();
        assert!(known <= MAX_ORIGINS, "{known}");
    }
    assert!(turns(&budgets, &ctx, &format!("https://{}.example/", 2 * MAX_ORIGINS - 1)).await.is_err());
    drop(held);
}

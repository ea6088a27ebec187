#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{future::Future, num::NonZeroU32, pin::Pin, task::Poll};

use futures_util::future::join_all;
use keyward_model::CallId;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1_000);

fn budget(in_flight: u32, rate: Option<&str>) -> Budget {
    Budget {
        in_flight: NonZeroU32::new(in_flight).unwrap(),
        waiting: 100,
        rate: rate.map(|rate| rate.parse().unwrap()),
        request_bytes_per_hour: None,
        response_bytes_per_hour: Some(1_000),
    }
}

fn lane(in_flight: u32, rate: Option<&str>) -> Arc<Lane> {
    Arc::new(Lane::new(&budget(in_flight, rate)))
}

fn caller() -> Caller {
    Caller::Call(CallId::new())
}

fn soon(time: Duration) -> Instant {
    Instant::now() + time
}

type Waiting<'a> = Pin<Box<dyn Future<Output = Result<Turn, Refusal>> + Send + 'a>>;

fn ask(lane: &Arc<Lane>, caller: Caller) -> Waiting<'_> {
    let until = soon(LONG);
    Box::pin(lane.turn(caller, until))
}

/// Polls it once.
pub(crate) async fn once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}

fn now<T>(polled: Poll<T>) -> Option<T> {
    match polled {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn caller_with_a_thousand_requests_does_not_starve_another() {
    let lane = Arc::new(Lane::new(&Budget { waiting: 2_000, ..budget(2, None) }));
    let (greedy, modest) = (caller(), caller());
    let served = Arc::new(Mutex::new(Vec::new()));
    let serve = |caller: Caller| {
        let (lane, served) = (lane.clone(), served.clone());
        tokio::spawn(async move {
            let _turn = lane.turn(caller, soon(LONG)).await.unwrap();
            served.lock().unwrap().push(caller);
            tokio::time::sleep(Duration::from_millis(10)).await;
        })
    };
    let mut all: Vec<_> = (0..1_000).map(|_| serve(greedy)).collect();
    tokio::task::yield_now().await;
    all.extend((0..10).map(|_| serve(modest)));
    join_all(all).await;
    let served = served.lock().unwrap();
    assert_eq!(served.len(), 1_010, "nobody is lost");
    let last = served.iter().rposition(|caller| *caller == modest).unwrap();
    assert!(last <= 2 + 2 * 10, "the last of ten had its turn after {last} others");
    assert!(lane.is_idle(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn who_is_dropped_at_any_moment_takes_no_turn_with_it() {
    // The moments: before it is polled, in the line, told that it is next but not polled, with its turn.
    for moment in 0..4 {
        let lane = lane(1, None);
        let holder = ask(&lane, caller()).await.unwrap();
        let mut dropped = ask(&lane, caller());
        let mut next = ask(&lane, caller());
        if moment > 0 {
            assert!(once(&mut dropped).await.is_pending());
        }
        assert!(once(&mut next).await.is_pending());
        let mut holder = Some(holder);
        if moment > 1 {
            holder.take();
            assert!(once(&mut next).await.is_pending(), "it is not its turn");
        }
        let turn = if moment > 2 { now(once(&mut dropped).await) } else { None };
        assert_eq!(turn.is_some(), moment > 2);
        drop(dropped);
        drop(turn);
        drop(holder);
        assert!(now(once(&mut next).await).unwrap().is_ok(), "at moment {moment}");
        drop(next);
        assert!(lane.is_idle(Instant::now()), "at moment {moment}");
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_come_and_go_at_random_lose_nothing() {
    let lane = lane(3, Some("1000/s"));
    let callers = [caller(), caller(), caller()];
    let mut state = 7_u64;
    let mut random = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let under_way = Arc::new(Mutex::new(0));
    let tasks = (0..2_000).map(|_| {
        let (lane, under_way) = (lane.clone(), under_way.clone());
        let (caller, patience, work) = (callers[random(3) as usize], random(40), random(5));
        let start = random(3_000);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(start)).await;
            let turn = async {
                let turn = lane.turn(caller, soon(LONG)).await;
                if turn.is_ok() {
                    *under_way.lock().unwrap() += 1;
                    assert!(*under_way.lock().unwrap() <= 3);
                }
                turn
            };
            // The wait is dropped where patience ends first.
            if let Ok(Ok(turn)) = tokio::time::timeout(Duration::from_millis(patience), turn).await {
                tokio::time::sleep(Duration::from_millis(work)).await;
                *under_way.lock().unwrap() -= 1;
                drop(turn);
                return 1;
            }
            0
        })
    });
    let tasks: Vec<_> = tasks.collect();
    let served: u32 = join_all(tasks).await.into_iter().map(Result::unwrap).sum();
    assert!(served > 100, "{served} of 2000 had a turn");
    tokio::time::advance(LONG).await;
    assert!(lane.is_idle(Instant::now()));
    assert!(lane.lock().line.is_empty());
}

#[tokio::test(start_paused = true)]
async fn rate_lets_through_what_it_says_and_who_cannot_wait_is_told_at_once() {
    let lane = lane(1_000, Some("10/s"));
    let start = Instant::now();
    let mut passed = Vec::new();
    for _ in 0..30 {
        ask(&lane, caller()).await.unwrap();
        passed.push(start.elapsed().as_millis());
    }
    assert_eq!(passed[9], 0, "the bucket is full at first");
    assert!((2_000..2_010).contains(&passed[29]), "{passed:?}");

    // Ten wait for a second; the eleventh would not be in time, and knows it.
    let one = caller();
    for _ in 0..10 {
        let lane = lane.clone();
        tokio::spawn(async move { lane.turn(one, soon(LONG)).await });
    }
    tokio::task::yield_now().await;
    let before = Instant::now();
    let refusal = lane.turn(one, soon(SECOND)).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Later(wait, false) if wait > SECOND && wait < SECOND * 2), "{refusal:?}");
    assert_eq!(Instant::now(), before, "without waiting");
    // Another caller has its turn after the first of them.
    assert!(lane.turn(caller(), soon(SECOND)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn silence_is_waited_for_by_those_who_have_the_time() {
    let lane = lane(10, None);
    let waiting = ask(&lane, caller()).await.unwrap();
    lane.refused(Some(SECOND * 30), LONG);
    drop(waiting);
    let before = Instant::now();
    let refusal = lane.turn(caller(), soon(SECOND * 29)).await.unwrap_err();
    assert_eq!(refusal, Refusal::Later(SECOND * 30, true));
    assert_eq!(Instant::now(), before, "without waiting");
    ask(&lane, caller()).await.unwrap();
    assert!(before.elapsed() >= SECOND * 30, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn silence_that_begins_later_is_told_to_those_who_wait() {
    let lane = lane(1, None);
    let holder = ask(&lane, caller()).await.unwrap();
    let until = soon(SECOND * 10);
    let mut hurried = Box::pin(lane.turn(caller(), until));
    let mut patient = ask(&lane, caller());
    assert!(once(&mut hurried).await.is_pending());
    assert!(once(&mut patient).await.is_pending());
    assert!(lane.is_open(&holder));
    lane.refused(Some(SECOND * 60), LONG);
    assert_eq!(now(once(&mut hurried).await).unwrap().unwrap_err(), Refusal::Later(SECOND * 60, true));
    assert!(once(&mut patient).await.is_pending());
    assert!(!lane.is_open(&holder));
}

#[tokio::test(start_paused = true)]
async fn after_a_refusal_one_goes_at_a_time_until_the_server_answers() {
    let lane = lane(10, None);
    // One from before the refusal is still under way, and does not count as the one that tries.
    let before = ask(&lane, caller()).await.unwrap();
    lane.refused(Some(SECOND), LONG);
    let first = ask(&lane, caller()).await.unwrap();
    assert!(first.is_probe && lane.is_open(&first) && !lane.is_open(&before));
    let (mut second, mut third) = (ask(&lane, caller()), ask(&lane, caller()));
    assert!(once(&mut second).await.is_pending() && once(&mut third).await.is_pending());
    // It brings no answer: the next one tries.
    drop(first);
    let second = now(once(&mut second).await).unwrap().unwrap();
    assert!(second.is_probe);
    assert!(once(&mut third).await.is_pending());
    lane.answered(Duration::ZERO, LONG);
    assert!(!now(once(&mut third).await).unwrap().unwrap().is_probe);
    assert!(lane.is_open(&before));
    drop((before, second));
    assert!(lane.is_idle(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn silence_has_a_longest_and_grows_where_the_server_names_none() {
    let lane = lane(10, None);
    let mut silences = Vec::new();
    for _ in 0..9 {
        let start = Instant::now();
        lane.refused(None, LONG);
        // What was under way with it is refused too, and makes nothing longer.
        lane.refused(None, LONG);
        drop(ask(&lane, caller()).await.unwrap());
        silences.push(start.elapsed().as_secs());
    }
    assert_eq!(silences, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    lane.answered(Duration::ZERO, LONG);
    let start = Instant::now();
    lane.refused(Some(Duration::MAX), SECOND * 5);
    drop(ask(&lane, caller()).await.unwrap());
    assert_eq!(start.elapsed().as_secs(), 5);
    lane.answered(Duration::MAX, SECOND * 7);
    drop(ask(&lane, caller()).await.unwrap());
    assert_eq!(start.elapsed().as_secs(), 12);
}

#[tokio::test(start_paused = true)]
async fn line_is_bounded_and_waiting_is_too() {
    let lane = Arc::new(Lane::new(&Budget { waiting: 2, ..budget(1, None) }));
    let _holder = ask(&lane, caller()).await.unwrap();
    let (one, other) = (caller(), caller());
    let (mut first, mut second) = (ask(&lane, one), ask(&lane, one));
    assert!(once(&mut first).await.is_pending() && once(&mut second).await.is_pending());
    assert_eq!(ask(&lane, one).await.unwrap_err(), Refusal::Crowded);
    let mut third = ask(&lane, other);
    assert!(once(&mut third).await.is_pending(), "another caller finds a place");
    assert_eq!(now(once(&mut second).await).unwrap().unwrap_err(), Refusal::Crowded, "which was this one's");
    let start = Instant::now();
    assert_eq!(first.await.unwrap_err(), Refusal::Busy);
    assert_eq!(start.elapsed().as_secs(), LONG.as_secs());
}

#[tokio::test(start_paused = true)]
async fn bytes_are_counted_by_the_hour() {
    let lane = lane(1, None);
    assert_eq!(lane.count(Way::Out, u64::MAX), Ok(()), "nothing limits them");
    assert_eq!(lane.count(Way::In, 600), Ok(()));
    tokio::time::advance(SECOND * 600).await;
    assert_eq!(lane.count(Way::In, 401), Err((SECOND * 3_000, 1_000)));
    assert_eq!(lane.count(Way::In, 400), Ok(()), "what did not go does not count");
    assert!(!lane.is_idle(Instant::now()));
    tokio::time::advance(SECOND * 3_000).await;
    assert!(lane.is_idle(Instant::now()));
    assert_eq!(lane.count(Way::In, 1_000), Ok(()));
    assert_eq!(lane.count(Way::In, u64::MAX), Err((SECOND * 3_600, 1_000)));
}

//! The audit trail as others read it: checked, and exported to where nobody of this program reads.

use std::fmt::Write as _;

use anyhow::Result;
use keyward_harness::{
    EchoServer,
    keyward::{CANARY, hostile},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_checks_and_an_export_checks_without_this_program() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let call = |method: &str| {
        let input = json!({"method": method, "path": "/echo/verbatim"}).to_string();
        keyward.run(["call", "hostile.any-request", "--connection", "canary", "--input", &input])
    };
    call("GET")?;
    let kept = keyward.run(["--json", "audit", "verify"])?.success().json();
    call("DELETE")?;
    let head = kept["head"].as_str().unwrap();
    let verdict = keyward.run(["--json", "audit", "verify", "--head", head])?.success().json();
    assert!(verdict["records"].as_u64() > kept["records"].as_u64(), "{kept} {verdict}");

    // What the documents say of the digest is enough to check it.
    let export = keyward.run(["audit", "export"])?.success().stdout;
    let mut digest = vec![0; 32];
    for (line, number) in export.lines().zip(1_u64..) {
        let (_, record) = line.split_once("\"record\":").unwrap();
        let mut hash = Sha256::new();
        hash.update(b"keyward-audit-1\n");
        hash.update(&digest);
        hash.update(number.to_be_bytes());
        hash.update(record.strip_suffix('}').unwrap().as_bytes());
        digest = hash.finalize().to_vec();
        let hex = digest.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        let parsed: Value = serde_json::from_str(line)?;
        assert_eq!((&parsed["number"], &parsed["digest"]), (&json!(number), &json!(format!("sha256:{hex}"))));
    }
    let all = lines(&export);
    assert_eq!(all.len() as u64, verdict["records"].as_u64().unwrap());
    let last = all.last().unwrap();
    assert_eq!(verdict["head"], format!("{}:{}", last["number"], last["digest"].as_str().unwrap()));

    // The rest of it, and as events for others.
    let after = (all.len() - 1).to_string();
    assert_eq!(lines(&keyward.run(["audit", "export", "--after", &after])?.success().stdout).len(), 1);
    // No record has such a number.
    keyward.run(["audit", "export", "--after", &u64::MAX.to_string()])?.failure(2);
    let events =
        lines(&keyward.run(["audit", "export", "--format", "ocsf", "--action", "any-request"])?.success().stdout);
    let denied: Vec<_> = events.iter().filter(|event| event["action"] == "Denied").collect();
    let [denied] = denied[..] else { panic!("{events:?}") };
    assert_eq!((&denied["class_uid"], &denied["type_uid"]), (&json!(4002), &json!(400_202)));
    assert_eq!(denied["status_detail"], "path-not-allowed");
    let sent = events.iter().find(|event| event["http_response"]["code"] == 200).unwrap();
    assert_eq!(sent["http_request"]["http_method"], "GET");
    assert!(!format!("{events:?}").contains(CANARY), "an event holds a secret");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_of_another_trail_is_told() -> Result<()> {
    let echo = EchoServer::start().await?;
    let keyward = hostile(&echo.url)?;
    let other = format!("1:sha256:{}", "0".repeat(64));
    let outcome = keyward.run(["--json", "audit", "verify", "--head", &other])?.failure(1);
    assert_eq!(outcome.error()["code"], "audit-broken");
    let outcome = keyward.run(["audit", "verify", "--head", "7"])?.failure(2);
    assert!(outcome.stderr.contains("<number>:sha256:"), "{}", outcome.stderr);
    let outcome = keyward.run(["audit", "--denied", "verify"])?;
    assert_eq!(outcome.code, Some(2), "{}", outcome.stderr);
    Ok(())
}

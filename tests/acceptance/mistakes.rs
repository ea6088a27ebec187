//! What goes wrong for a person: one clear error with what to do next, and nothing lost.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Result;
use keyward_harness::{
    AuthorizationServer, GithubApi, Keyward,
    authorization_server::{CLIENT_SECRET, Options},
    keyward::{PASSPHRASE, binary},
};
use keyward_model::{AuditEvent, TenantId};
use keyward_registry::PluginStore;
use keyward_store::Store;
use serde_json::json;

/// Standard error has one line that begins with `error`, and a hint.
#[track_caller]
fn one_error_with_a_hint(stderr: &str) {
    let errors = stderr.lines().filter(|line| line.starts_with("error")).count();
    assert_eq!(errors, 1, "{stderr}");
    assert!(stderr.contains("hint:") || stderr.contains("help:"), "no hint: {stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_passphrase_is_told_and_changes_nothing() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let mut keyward = Keyward::connected(&authorization, &api).await?;
    keyward.set("KEYWARD_PASSPHRASE", "not-the-test-passphrase");
    let outcome = keyward.run(["call", "github.current-user"])?.failure(6);
    one_error_with_a_hint(&outcome.stderr);
    keyward.set("KEYWARD_PASSPHRASE", PASSPHRASE);
    keyward.run(["call", "github.current-user"])?.success();
    Ok(())
}

#[test]
fn an_installation_that_is_not_there_names_the_command_that_makes_it() -> Result<()> {
    let keyward = Keyward::empty()?;
    let outcome = keyward.run(["connections", "list"])?.failure(8);
    one_error_with_a_hint(&outcome.stderr);
    assert!(outcome.stderr.contains("keyward init"), "{}", outcome.stderr);
    Ok(())
}

#[test]
fn init_twice_keeps_what_is_there() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let config = fs::read(keyward.data_dir().join("config.toml"))?;
    let outcome = keyward.run(["init", "--key", "passphrase"])?.failure(2);
    one_error_with_a_hint(&outcome.stderr);
    assert_eq!(config, fs::read(keyward.data_dir().join("config.toml"))?);
    keyward.run(["vault", "status"])?.success();
    Ok(())
}

#[test]
fn a_broken_manifest_is_shown_at_its_line() -> Result<()> {
    let keyward = Keyward::empty()?;
    keyward.run(["plugin", "new", "demo"])?.success();
    let manifest = keyward.folder().join("demo/connector.toml");
    let text = fs::read_to_string(&manifest)?;
    fs::write(&manifest, format!("{text}\n[actions.hello.limitz]\ncpu_ms = 1\n"))?;
    let outcome = keyward.run(["plugin", "build", "demo"])?.failure(3);
    assert!(outcome.stderr.contains("connector.toml:"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("limitz"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("limits"), "no suggestion: {}", outcome.stderr);
    Ok(())
}

#[test]
fn what_is_no_connector_is_not_installed() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let files: [(&str, &[u8]); 4] = [
        ("text.wasm", b"no wasm at all"),
        ("module.wasm", b"\0asm\x01\0\0\0"),
        ("other-world.wasm", b"\0asm\x0d\0\x01\0"),
        ("empty.wasm", b""),
    ];
    for (name, content) in files {
        fs::write(keyward.folder().join(name), content)?;
        let outcome = keyward.run(["plugin", "add", name, "--yes"])?.failure(3);
        one_error_with_a_hint(&outcome.stderr);
    }
    assert_eq!(keyward.run(["--json", "plugin", "list"])?.success().json(), json!([]));
    Ok(())
}

#[test]
fn a_component_that_was_changed_after_the_consent_is_not_run() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    keyward.add_plugin("hello")?;
    keyward.run(["call", "hello.hello", "name=World"])?.success();
    let wasm = crate::spine::files(&keyward.data_dir())
        .into_iter()
        .find(|(path, _)| path.extension().is_some_and(|extension| extension == "wasm"));
    let (path, mut content) = wasm.unwrap();
    *content.last_mut().unwrap() ^= 1;
    fs::remove_file(&path)?;
    fs::write(&path, content)?;
    one_error_with_a_hint(&keyward.run(["call", "hello.hello", "name=World"])?.failure(4).stderr);
    let outcome = keyward.run(["--json", "call", "hello.hello", "name=World"])?.failure(4);
    assert_eq!(outcome.error()["code"], "component-changed", "{}", outcome.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_a_connector_that_was_changed_is_told_and_agreed_to_anew() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    keyward.add_plugin("hello")?;
    let store = Store::open(&keyward.data_dir().join("keyward.db")).await?;
    let mut installed = store.installed(&TenantId::default()).await?.remove(0);
    installed.manifest.title = "Another".to_owned();
    let audit = serde_json::from_value(json!({
        "id": "01930000-0000-7000-8000-000000000001",
        "at": "2026-11-22T13:00:00Z",
        "tenant": installed.tenant,
        "principal": installed.consented_by,
        "event": AuditEvent::Consent { change: "altered".to_owned() },
    }))?;
    store.put(Some(&installed.connector.digest), &installed, &audit).await?;
    drop(store);

    let outcome = keyward.run(["--json", "call", "hello.hello", "name=World"])?.failure(4);
    assert_eq!(outcome.error()["code"], "manifest-changed", "{}", outcome.stderr);
    let doctor = keyward.run(["doctor"])?.failure(1);
    assert!(doctor.stdout.contains("hello: the record of the connector"), "{}", doctor.stdout);
    let list = keyward.run(["--json", "plugin", "list"])?.success().json();
    assert!(list[0]["fault"].as_str().is_some_and(|fault| fault.contains("the record")), "{list}");

    keyward.add_plugin("hello")?;
    keyward.run(["call", "hello.hello", "name=World"])?.success();
    let list = keyward.run(["--json", "plugin", "list"])?.success().json();
    assert_eq!(list[0]["fault"], json!(null));
    Ok(())
}

#[test]
fn runs_that_are_not_there_name_the_command_that_makes_one() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let outcome = keyward.run(["runs", "show"])?.failure(2);
    one_error_with_a_hint(&outcome.stderr);
    assert!(outcome.stderr.contains("keyward run <flow>"), "{}", outcome.stderr);
    assert!(keyward.run(["runs", "list"])?.success().stderr.contains("keyward run <flow>"));
    Ok(())
}

#[test]
fn what_is_likely_not_meant_in_a_flow_is_told_to_programs_too() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let flow = "document: {dsl: '1.0.3', namespace: tests, name: again, version: '0.1.0'}\ndo:\n  - a:\n      try:\n        - b: {set: {x: 1}}\n      catch:\n        retry: {delay: {seconds: 1}}\n";
    fs::write(keyward.folder().join("again.yaml"), flow)?;
    let run = keyward.run(["--json", "run", "again.yaml"])?.success().json();
    assert_eq!((&run["phase"], &run["warnings"][0]["code"]), (&json!("completed"), &json!("unbounded-retry")), "{run}");
    let check = keyward.run(["--json", "flow", "check", "again.yaml"])?.success().json();
    assert_eq!((&check["looked_up"], &check["warnings"]), (&json!(true), &run["warnings"]));

    let nowhere = Keyward::empty()?;
    fs::write(nowhere.folder().join("again.yaml"), flow)?;
    let check = nowhere.run(["--json", "flow", "check", "again.yaml"])?.success().json();
    assert_eq!(check["looked_up"], json!(false));
    Ok(())
}

#[test]
fn a_typo_in_a_flow_is_shown_at_its_line() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let flow = "document: {dsl: '1.0.3', namespace: tests, name: typo, version: '0.1.0'}\ndo:\n  - greet:\n      cal: hello.hello\n";
    fs::write(keyward.folder().join("typo.yaml"), flow)?;
    for command in [["flow", "check", "typo.yaml"], ["run", "typo.yaml", "--quiet"]] {
        let outcome = keyward.run(command)?.failure(3);
        assert!(outcome.stderr.contains("typo.yaml:4:"), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("call"), "no suggestion: {}", outcome.stderr);
    }
    assert_eq!(keyward.run(["--json", "runs", "list"])?.success().json(), json!([]));
    Ok(())
}

#[test]
fn a_construct_that_is_not_executed_is_refused_by_its_name() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let flow = "document: {dsl: '1.0.3', namespace: tests, name: shell, version: '0.1.0'}\ndo:\n  - list:\n      run:\n        shell:\n          command: ls\n";
    fs::write(keyward.folder().join("shell.yaml"), flow)?;
    let outcome = keyward.run(["flow", "check", "shell.yaml"])?.failure(3);
    assert!(outcome.stderr.contains("shell"), "{}", outcome.stderr);
    Ok(())
}

/// The flow calls an action of GitHub and names no connection.
const NOBODY: &str = "
document: {dsl: '1.0.3', namespace: tests, name: nobody, version: '0.1.0'}
do:
  - who: {call: github.current-user}
";

#[test]
fn a_flow_that_lacks_its_connection_is_told_before_it_begins() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    keyward.add_plugin("github")?;
    fs::write(keyward.folder().join("nobody.yaml"), NOBODY)?;
    let warned = |hint: &str| -> Result<()> {
        let checked = keyward.run(["--json", "flow", "check", "nobody.yaml"])?.success().json();
        assert_eq!(checked["warnings"][0]["code"], "connection-missing", "{checked}");
        assert!(checked["warnings"][0]["hint"].as_str().unwrap().contains(hint), "{checked}");
        let outcome = keyward.run(["flow", "check", "nobody.yaml"])?.success();
        assert!(!outcome.stdout.contains("can be run"), "{}", outcome.stdout);
        // It ends as the call alone would, and leaves no run behind.
        for command in [["run", "nobody.yaml"], ["call", "github.current-user"]] {
            let error = keyward.run(["--json"].iter().chain(&command))?.failure(5).error();
            assert_eq!(error["code"], "connection-missing", "{error}");
        }
        assert_eq!(keyward.run(["--json", "runs", "list"])?.success().json(), json!([]));
        Ok(())
    };
    warned("keyward connect github")?;
    for name in ["home", "work"] {
        let connect = ["connect", "github", "--method", "bearer", "--name", name, "--secret-file", "-"];
        keyward.run_with_input(connect, "test-token")?.success();
        if name == "home" {
            let outcome = keyward.run(["flow", "check", "nobody.yaml"])?.success();
            assert!(outcome.stdout.contains("can be run"), "{}", outcome.stdout);
        }
    }
    warned("metadata: {connection: ...}")?;
    Ok(())
}

#[test]
fn a_path_that_is_not_utf8_is_shown_as_well_as_it_can_be() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let flow = OsStr::from_bytes(b"b\xff.yaml");
    fs::write(keyward.folder().join(flow), GREET)?;
    let name = |text: &'static str| OsStr::new(text);
    let odd = OsStr::from_bytes(b"b\xff");
    let commands: [(&[&OsStr], &str); 3] = [
        (&[name("flow"), name("check"), flow], "file"),
        (&[name("plugin"), name("new"), name("demo"), name("--dir"), odd], "directory"),
        (&[name("man"), OsStr::from_bytes(b"man\xff")], "directory"),
    ];
    for (command, member) in commands {
        let document = keyward.run([name("--json")].iter().chain(command))?.success().json();
        assert!(document[member].as_str().unwrap().contains('\u{fffd}'), "{document}");
    }
    Ok(())
}

#[test]
fn the_examples_of_call_are_accepted_by_the_connector() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    keyward.add_plugin("github")?;
    let issue = json!({"owner": "octo-org", "repository": "hello", "title": "test"});
    fs::write(keyward.folder().join("issue.json"), issue.to_string())?;
    let help = keyward.run(["call", "--help"])?.success().stdout;
    let examples: Vec<&str> = help.lines().filter_map(|line| line.trim().strip_prefix("keyward call ")).collect();
    assert_eq!(examples.len(), 2, "{help}");
    for example in examples {
        // As a shell reads it.
        let words = Command::new("sh").arg("-c").arg(format!("printf '%s\\n' {example}")).output()?;
        let words = String::from_utf8(words.stdout)?;
        // It ends for want of a connection, and for nothing else.
        keyward.run(["call"].into_iter().chain(words.lines()))?.failure(5);
    }
    Ok(())
}

#[test]
fn every_fault_that_doctor_finds_has_a_hint() -> Result<()> {
    let root = |keyward: &Keyward, text: &str| -> Result<()> {
        let config = keyward.data_dir().join("config.toml");
        let rest = fs::read_to_string(&config)?;
        Ok(fs::write(
            config,
            rest.replace(
                "[network]",
                &format!("[network]\nauthorities = [{{ file = \"ca.pem\", hosts = [\"a.example\"] }}]\n{text}"),
            ),
        )?)
    };
    type Damage<'a> = &'a dyn Fn(&Keyward) -> Result<()>;
    let damages: [(&str, &str, Damage<'_>); 6] = [
        ("vault", "put the file back", &|keyward| Ok(fs::remove_file(keyward.folder().join("root.key"))?)),
        ("vault", "authorities", &|keyward| root(keyward, "")),
        ("vault", "authorities", &|keyward| {
            fs::write(keyward.data_dir().join("ca.pem"), "no certificate")?;
            root(keyward, "")
        }),
        ("configuration", "docs/cli.md", &|keyward| root(keyward, "nonsense = 1")),
        ("database", "data directory", &|keyward| {
            // What may wait in the write-ahead log would mend it.
            let _ = fs::remove_file(keyward.data_dir().join("keyward.db-wal"));
            Ok(fs::write(keyward.data_dir().join("keyward.db"), "no database")?)
        }),
        ("data directory", "keyward init", &|keyward| Ok(fs::remove_file(keyward.data_dir().join("keyward.db"))?)),
    ];
    for (name, hint, damage) in damages {
        let keyward = Keyward::empty()?;
        let key = format!("file:{}", keyward.folder().join("root.key").display());
        keyward.run(["init", "--key", &key])?.success();
        damage(&keyward)?;
        let found = keyward.run(["--json", "doctor"])?.failure(1).json();
        let faults: Vec<_> =
            found["checks"].as_array().unwrap().iter().filter(|check| check["verdict"] != "ok").collect();
        for fault in &faults {
            assert!(fault["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "no hint: {fault}");
        }
        let told = faults.iter().any(|fault| fault["name"] == name && fault["hint"].as_str().unwrap().contains(hint));
        assert!(told, "{hint}: {found}");
    }
    Ok(())
}

#[test]
fn an_authority_that_cannot_be_used_is_named_with_its_file() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let config = keyward.data_dir().join("config.toml");
    let text = fs::read_to_string(&config)?
        .replace("[network]", "[network]\nauthorities = [{ file = \"ca.pem\", hosts = [\"a.example\"] }]");
    fs::write(&config, text)?;
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            fs::write(keyward.data_dir().join("ca.pem"), content)?;
        }
        let outcome = keyward.run(["vault", "rotate"])?.failure(3);
        one_error_with_a_hint(&outcome.stderr);
        assert!(outcome.stderr.contains("data/ca.pem"), "{}", outcome.stderr);
        assert!(!outcome.stderr.contains("current directory"), "{}", outcome.stderr);
    }
    Ok(())
}

#[test]
fn help_that_cannot_be_written_is_a_failure() -> Result<()> {
    let keyward = Keyward::empty()?;
    let output = keyward.command(["--help"]).stdout(fs::File::create("/dev/full")?).output()?;
    assert_eq!(output.status.code(), Some(8), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_root_key_in_the_data_directory_is_refused() -> Result<()> {
    let keyward = Keyward::empty()?;
    let init = keyward.run(["init", "--key", "file:data/root.key"])?.failure(2);
    one_error_with_a_hint(&init.stderr);
    assert!(!keyward.data_dir().exists(), "it left something behind");
    keyward.run(["init", "--key", "file:root.key"])?.success();
    let rekey = keyward.run(["vault", "rekey", "--key", "file:data/keys/new.key"])?.failure(2);
    one_error_with_a_hint(&rekey.stderr);
    assert!(!keyward.data_dir().join("keys").exists(), "it left something behind");
    keyward.run(["vault", "rotate"])?.success();
    Ok(())
}

#[test]
fn a_variable_that_is_set_to_nothing_counts_as_not_set() -> Result<()> {
    let mut keyward = Keyward::empty()?;
    for name in ["KEYWARD_DATA_DIR", "KEYWARD_CONFIG", "KEYWARD_KEY", "KEYWARD_LOG"] {
        keyward.set(name, "");
    }
    let command = keyward.command(["doctor"]);
    let mut plain = Command::new(binary());
    plain
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .args(["--json", "doctor"]);
    let found: serde_json::Value = serde_json::from_slice(&plain.output()?.stdout)?;
    let data_directory = found["checks"].as_array().unwrap().iter().find(|check| check["name"] == "data directory");
    let default = keyward.folder().join("home/data/keyward").display().to_string();
    assert!(data_directory.is_some_and(|check| check["found"].as_str().unwrap().ends_with(&default)), "{found}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_provider_is_told_and_leaves_nothing() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let mut keyward = Keyward::initialised(&[authorization.authority()])?;
    keyward.use_provider(&authorization)?;
    keyward.set("KEYWARD_CLIENT_SECRET", CLIENT_SECRET);
    drop(authorization);
    let connect = ["connect", "github", "--client-id", "any", "--no-browser", "--scope", "repo"];
    let outcome = keyward.run(connect)?.failure(8);
    one_error_with_a_hint(&outcome.stderr);
    assert_eq!(keyward.run(["--json", "connections", "list"])?.success().json(), json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_that_is_away_is_told_and_the_next_call_works() -> Result<()> {
    let authorization = AuthorizationServer::start(Options::default())?;
    let api = GithubApi::start(&authorization).await?;
    let keyward = Keyward::connected(&authorization, &api).await?;
    drop(api);
    let outcome = keyward.run(["--json", "call", "github.current-user"])?.failure(8);
    assert_eq!(outcome.error()["code"], "unreachable", "{}", outcome.stderr);
    Ok(())
}

#[test]
fn a_command_that_waits_for_standard_input_ends_when_it_is_told_to() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    keyward.add_plugin("hello")?;
    let secret = ["connect", "http", "--method", "bearer", "--name", "x", "--secret-file", "-"];
    let input = ["call", "hello.hello", "--input", "-"];
    for command in [secret.as_slice(), &input] {
        // The other end of the pipe stays open and silent.
        let mut child = waiting(keyward.command(command).stdin(Stdio::piped()))?;
        terminate(&child)?;
        assert_eq!(end(&mut child)?, Some(7), "{command:?}");
    }
    Ok(())
}

#[test]
fn a_second_signal_ends_a_command_that_does_not_heed_the_first() -> Result<()> {
    let keyward = Keyward::empty()?;
    assert!(Command::new("mkfifo").arg(keyward.folder().join("pipe")).status()?.success());
    // Nobody ever opens the other end, and the system does not let go of the thread that does.
    let mut child = waiting(&mut keyward.command(["plugin", "inspect", "./pipe"]))?;
    terminate(&child)?;
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(child.try_wait()?, None, "the first signal ended it");
    terminate(&child)?;
    assert_eq!(end(&mut child)?, Some(130));
    Ok(())
}

/// The command once it has had the time to come to where it waits; one that is told to end earlier ends all the same.
fn waiting(command: &mut Command) -> Result<Child> {
    let mut child = command.stderr(Stdio::piped()).spawn()?;
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(child.try_wait()?, None, "it does not wait");
    Ok(child)
}

fn terminate(child: &Child) -> Result<()> {
    Ok(rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM)?)
}

/// The exit code of a command that ends within three seconds.
fn end(child: &mut Child) -> Result<Option<i32>> {
    let told = Instant::now();
    while told.elapsed() < Duration::from_secs(3) {
        if let Some(status) = child.try_wait()? {
            return Ok(status.code());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    anyhow::bail!("it goes on waiting")
}

#[test]
fn init_writes_the_configuration_that_was_named() -> Result<()> {
    let keyward = Keyward::empty()?;
    keyward.run(["--config", "new.toml", "init", "--key", "passphrase"])?.success();
    assert!(keyward.folder().join("new.toml").is_file());
    keyward.run(["--config", "new.toml", "call", "hello.hello"])?.failure(2);
    Ok(())
}

#[test]
fn text_of_a_manifest_is_harmless_on_a_terminal() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let mut manifest = keyward_registry::artifact::read(&fs::read(keyward_harness::keyward::guest("hello")?)?)?;
    for action in manifest.actions.values_mut() {
        action.input = json!({"type": "object", "properties": {"a\u{1b}[2Jb\u{9b}c\u{202e}d": {"type": "string"}}});
    }
    let component =
        keyward_registry::artifact::embed(&fs::read(keyward_harness::keyward::guest("hello")?)?, &manifest)?;
    fs::write(keyward.folder().join("odd.wasm"), component)?;
    let commands: [&[&str]; 4] = [
        &["plugin", "add", "odd.wasm", "--yes"],
        &["plugin", "inspect", "odd.wasm", "--schemas"],
        &["--json", "plugin", "inspect", "odd.wasm"],
        &["call", "hello.hello", "--input", "[]"],
    ];
    for command in commands {
        let outcome = keyward.run(command)?;
        let told = outcome.stdout + &outcome.stderr;
        assert!(told.contains("[2Jb"), "{command:?} does not show it: {told}");
        assert!(!told.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{command:?}: {told:?}");
    }
    Ok(())
}

/// A file system of 6 MiB of our own with the data directory on it: full from the start, and full in the middle of
/// a run, which then goes on by itself when there is room, or is interrupted and resumed.
#[test]
fn a_full_disk_loses_nothing() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    keyward.add_plugin("hello")?;
    fs::write(keyward.folder().join("greet.yaml"), GREET)?;
    fs::write(keyward.folder().join("many.yaml"), GREET_MANY)?;
    keyward.run(["run", "greet.yaml"])?.success();
    let script = r#"
        set -eu
        mkdir small
        mount -t tmpfs -o size=6m none small
        cp -a data/. small/
        run() { "$KEYWARD" --data-dir small --json "$@"; }
        dd if=/dev/zero of=small/filler bs=4096 2>/dev/null || true
        if run run greet.yaml; then echo "it ran on a full disk" >&2; exit 100; fi
        if run plugin add "$GUEST" --yes; then echo "it installed on a full disk" >&2; exit 101; fi
        rm small/filler
        run runs list > before.json
        run run greet.yaml > after.json
        run plugin list > plugins.json

        # Fills the disk under a run, and returns when the run has seen it.
        overflow() {
            "$KEYWARD" --data-dir small run many.yaml > "$1.out" 2> "$1.err" &
            running=$!
            until grep -q '✓' "$1.err"; do sleep 0.01; done
            dd if=/dev/zero of=small/filler bs=4096 2>/dev/null || true
            until grep -q 'tried again' "$1.err"; do
                kill -0 $running || { cat "$1.err" >&2; exit 102; }
                sleep 0.05
            done
        }
        overflow waited
        rm small/filler
        wait $running
        run runs show > waited.json

        overflow interrupted
        kill -INT $running
        until grep -q 'finishing' interrupted.err; do sleep 0.05; done
        kill -INT $running
        code=0
        wait $running || code=$?
        test $code = 7 || { cat interrupted.err >&2; exit 103; }
        rm small/filler
        id=$(run runs list | tr ',{[' '\n\n\n' | sed -n 's/^ *"id": *"\(.*\)"/\1/p' | head -n 1)
        run runs resume "$id"
        run runs show "$id" > interrupted.json
    "#;
    fs::write(keyward.folder().join("full.sh"), script)?;
    let shell = keyward.command(["--version"]);
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "full.sh"])
        .env_clear()
        .envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("KEYWARD", binary())
        .env("GUEST", keyward_harness::keyward::guest("github")?)
        .current_dir(keyward.folder());
    let output = command.output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}\n{}", String::from_utf8_lossy(&output.stdout));
    assert!(stderr.contains("disk is full") || stderr.contains("disk-full"), "{stderr}");
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(keyward.folder().join(name)).unwrap()).unwrap()
    };
    assert!(read("before.json").as_array().unwrap().iter().any(|run| run["phase"] == "completed"));
    assert_eq!(read("after.json")["phase"], "completed");
    assert_eq!(read("plugins.json").as_array().unwrap().len(), 1);
    for (name, uncertain) in [("waited.json", 0), ("interrupted.json", 1)] {
        let history = read(name);
        let count = |kind: &str| {
            let entries = history["entries"].as_array().unwrap();
            entries.iter().filter(|entry| entry["event"]["event"] == kind).count()
        };
        assert_eq!(history["run"]["phase"], "completed", "{name}");
        assert_eq!(count("step-completed"), 500, "{name}");
        assert!(count("step-uncertain") <= uncertain, "{name}");
        assert_eq!(count("step-started"), 500 + count("step-uncertain"), "{name}");
    }
    Ok(())
}

const GREET_MANY: &str = "
document: {dsl: '1.0.3', namespace: tests, name: greet-many, version: '0.1.0'}
do:
  - all:
      for: {in: '[range(500)]'}
      do:
        - greet: {call: hello.hello, with: {name: World}}
";

const GREET: &str = "
document: {dsl: '1.0.3', namespace: tests, name: greet, version: '0.1.0'}
do:
  - greet:
      call: hello.hello
      with: {name: World}
";

//! An author's way: from an empty folder to a connector that runs.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;
use keyward_harness::{Keyward, keyward::guest};
use serde_json::json;

#[test]
fn a_new_connector_is_made_tested_built_inspected_and_called() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    keyward.run(["plugin", "new", "weather"])?.success();
    let folder = keyward.folder().join("weather");
    let source = fs::read_to_string(folder.join("src/lib.rs"))?;
    assert!(source.lines().count() < 60, "the first thing that an author sees is short");

    // Its own unit tests run natively, with the fake host.
    let environment = keyward.command(["--version"]);
    let target =
        std::env::var("KEYWARD_GUEST_TARGET_DIR").unwrap_or_else(|_| folder.join("target").display().to_string());
    let tests = Command::new(env!("CARGO"))
        .args(["test", "--quiet"])
        .current_dir(&folder)
        .env_clear()
        .envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("CARGO_TARGET_DIR", target)
        .output()?;
    assert!(tests.status.success(), "{}", String::from_utf8_lossy(&tests.stderr));
    assert!(String::from_utf8_lossy(&tests.stdout).contains("1 passed"), "the scaffold has no test");

    keyward.run(["plugin", "build", "weather", "--out", "weather.wasm"])?.success();
    let component = fs::read(keyward.folder().join("weather.wasm"))?;
    let component = String::from_utf8_lossy(&component);
    for name in ["HOME", "CARGO_HOME"] {
        let Ok(path) = std::env::var(name) else { continue };
        assert!(!component.contains(&path), "the component tells where this machine has its {name}");
    }
    assert!(!component.contains("/.cargo/"), "the component tells where this machine has its packages");
    assert!(!component.contains(&keyward.folder().display().to_string()), "the component tells where it was built");
    let inspected = keyward.run(["--json", "plugin", "inspect", "weather.wasm"])?.success().json();
    assert_eq!(inspected["manifest"]["name"], "weather", "{inspected}");
    keyward.run(["plugin", "add", "weather.wasm", "--yes"])?.success();
    let called = keyward.run(["--json", "call", "weather.hello", "name=World"])?.success().json();
    assert_eq!(called["output"]["text"], "Hello, World!", "{called}");
    Ok(())
}

#[test]
fn a_component_of_another_tool_gets_its_manifest() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    let folder = keyward.folder().join("greeter");
    fs::create_dir(&folder)?;
    let manifest =
        "name = \"greeter\"\nversion = \"1.2.3\"\ntitle = \"Greeter\"\n\n[actions.hello]\ntitle = \"Greet\"\n";
    fs::write(folder.join("connector.toml"), manifest)?;
    let component = guest("hello")?.display().to_string();
    let build =
        || keyward.run(["--json", "plugin", "build", "greeter", "--component", &component, "--out", "out.wasm"]);

    assert_eq!(build()?.failure(3).error()["code"], "actions-missing");
    for (actions, expected) in [
        (json!([]), "actions.json has no schemas for the action 'hello'"),
        (json!({"hello": {}}), "the descriptions cannot be read"),
        (
            json!([{"name": "hello", "input": {"type": "thing"}, "output": {}}]),
            "the input of `hello` has no valid schema",
        ),
    ] {
        fs::write(folder.join("actions.json"), actions.to_string())?;
        let error = build()?.failure(3).error();
        assert!(error.to_string().contains(expected), "{error}");
    }
    assert!(!keyward.folder().join("out.wasm").exists());

    let input = json!({"type": "object", "required": ["name"]});
    fs::write(folder.join("actions.json"), json!([{"name": "hello", "input": input, "output": {}}]).to_string())?;
    build()?.success();
    keyward.run(["plugin", "add", "out.wasm", "--yes"])?.success();
    let called = keyward.run(["--json", "call", "greeter.hello", "name=World"])?.success().json();
    assert_eq!(called["output"]["text"], "Hello, World!", "{called}");
    let refused = keyward.run(["--json", "call", "greeter.hello", "--input", "{}"])?;
    assert_eq!(refused.error()["code"], "input-invalid");
    Ok(())
}

#[test]
fn an_upgrade_that_asks_for_more_needs_another_consent() -> Result<()> {
    let keyward = Keyward::initialised(&[])?;
    keyward.add_plugin("hello")?;
    keyward.run(["plugin", "new", "hello"])?.success();
    let folder = keyward.folder().join("hello");
    let manifest = fs::read_to_string(folder.join("connector.toml"))?;
    let widened = format!(
        "{}\n[endpoints.api]\nurl = \"https://api.example.com\"\n",
        manifest.replace("version = \"0.1.0\"", "version = \"0.2.0\"")
    );
    fs::write(folder.join("connector.toml"), widened)?;
    keyward.run(["plugin", "build", "hello", "--out", "hello.wasm"])?.success();

    let refused = keyward.run(["--json", "plugin", "add", "hello.wasm", "--yes"])?;
    assert_eq!(refused.code, Some(4), "{}\n{}", refused.stdout, refused.stderr);
    let listed = keyward.run(["--json", "plugin", "list"])?.success().json();
    assert_eq!(listed[0]["connector"]["version"], json!("0.1.0"), "{listed}");
    keyward.run(["plugin", "add", "hello.wasm", "--yes", "--allow-widening"])?.success();
    let listed = keyward.run(["--json", "plugin", "list"])?.success().json();
    assert_eq!(listed[0]["connector"]["version"], json!("0.2.0"), "{listed}");

    // What the old version left is gone, and with the connector the rest.
    let kept = |extension: &str| {
        let is_one = |path: &PathBuf| path.extension().is_some_and(|found| found == extension);
        crate::spine::files(&keyward.data_dir()).into_iter().filter(|(path, _)| is_one(path)).count()
    };
    assert_eq!((kept("wasm"), kept("cwasm")), (1, 1));
    keyward.run(["plugin", "remove", "hello", "--yes"])?.success();
    assert_eq!((kept("wasm"), kept("cwasm")), (0, 0));
    Ok(())
}

//! Apache with its own `mod_auth_digest`.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// A server behind HTTP Digest with MD5, the one algorithm that Apache has. It ends when this value does.
#[derive(Debug)]
pub struct Apache {
    /// Its base URL.
    pub url: String,
    child: Child,
    folder: TempDir,
}

/// Where Debian's package `apache2-bin` has its modules.
const MODULES: &str = "/usr/lib/apache2/modules";

impl Apache {
    /// Starts it; `account` is a line of its password file, `name:private:<MD5 of name:private:password>`.
    pub fn start(account: &str) -> Result<Self> {
        if !Path::new("/usr/sbin/apache2").is_file() {
            bail!("Apache is not there: run `./just setup`, which installs Debian's apache2-bin");
        }
        let folder = tempfile::Builder::new().prefix("keyward-apache-").tempdir()?;
        // As root Apache serves as another user, who must be able to read it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let root = folder.path().display();
        let modules: String = ["mpm_prefork", "authn_core", "authn_file", "authz_core", "authz_user", "auth_digest"]
            .map(|name| format!("LoadModule {name}_module {MODULES}/mod_{name}.so\n"))
            .concat();
        let configuration = format!(
            "{modules}ServerName localhost\nListen 127.0.0.1:{port}\nUser www-data\nGroup www-data\n\
             PidFile {root}/pid\nDefaultRuntimeDir {root}\nErrorLog {root}/error.log\n\
             LogFormat \"%m %>s %{{Authorization}}i\" seen\nCustomLog {root}/seen.log seen\nDocumentRoot {root}/files\n\
             <Location />\nAuthType Digest\nAuthName private\nAuthUserFile {root}/accounts\nRequire valid-user\n</Location>\n"
        );
        fs::create_dir(folder.path().join("files"))?;
        fs::write(folder.path().join("files/items"), "the items")?;
        fs::write(folder.path().join("accounts"), format!("{account}\n"))?;
        fs::write(folder.path().join("apache.conf"), configuration)?;
        let child = Command::new("/usr/sbin/apache2")
            .arg("-X")
            .arg("-f")
            .arg(folder.path().join("apache.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start Apache")?;
        let mut apache = Self { url: format!("http://127.0.0.1:{port}"), child, folder };
        let since = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if apache.child.try_wait()?.is_some() || since.elapsed() > Duration::from_secs(30) {
                bail!("Apache did not start:\n{}", apache.log("error.log")?);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(apache)
    }

    /// Each request that it answered: method, status, and what was in `Authorization`.
    pub fn seen(&self) -> Result<Vec<String>> {
        Ok(self.log("seen.log")?.lines().map(str::to_owned).collect())
    }

    fn log(&self, name: &str) -> Result<String> {
        fs::read_to_string(self.folder.path().join(name)).with_context(|| format!("Apache wrote no {name}"))
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

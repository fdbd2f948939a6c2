//! A real Chromium, driven over WebDriver: what people see of pages, and what they can do there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};
use thirtyfour::extensions::cdp::ChromeDevTools;
use thirtyfour::prelude::*;
use tokio::runtime::Runtime;

use crate::process::Process;
use crate::{port, wait_until};

/// How long the browser may take for anything.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How a person has set up their browser.
#[derive(Clone, Copy, Debug)]
pub struct BrowserLook {
    /// Of the window, in CSS pixels.
    pub width: u32,
    /// `prefers-color-scheme: dark`.
    pub is_dark: bool,
    /// Whether pages may run scripts.
    pub has_scripts: bool,
}

impl BrowserLook {
    /// A desk.
    pub const WIDE: BrowserLook = BrowserLook {
        width: 1280,
        is_dark: false,
        has_scripts: true,
    };
    /// A desk at night.
    pub const DARK: BrowserLook = BrowserLook {
        is_dark: true,
        ..BrowserLook::WIDE
    };
    /// A small telephone.
    pub const TELEPHONE: BrowserLook = BrowserLook {
        width: 360,
        ..BrowserLook::WIDE
    };
    /// A desk of somebody who lets no page run scripts.
    pub const WITHOUT_SCRIPTS: BrowserLook = BrowserLook {
        has_scripts: false,
        ..BrowserLook::WIDE
    };
}

/// A browser with a profile of its own. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    // Dropped in this order.
    driver: Mutex<Option<WebDriver>>,
    runtime: Runtime,
    process: Option<Process>,
    log: PathBuf,
}

impl Browser {
    /// Starts one, its profile and log in `folder` (created).
    ///
    /// # Panics
    /// When it does not start: Debian's packages chromium and chromium-driver have it.
    pub fn start(folder: &Path, look: BrowserLook) -> Browser {
        std::fs::create_dir_all(folder).expect("the browser's folder");
        let log = folder.join("chromedriver.log");
        let port = port::free();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}")).env("HOME", folder);
        let mut process = Process::start("chromedriver", command, None, &log, libc::SIGTERM);
        wait_until("chromedriver to listen", TIMEOUT, || {
            process.check_running().unwrap_or_else(|e| panic!("{e}"));
            std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let driver = runtime.block_on(async {
            let mut wanted = DesiredCapabilities::chrome();
            let profile = format!("--user-data-dir={}", folder.join("profile").display());
            // Root has no sandbox, and /dev/shm of a container is small.
            for argument in [
                "--headless=new",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
                "--disable-background-networking",
                "--hide-scrollbars",
                &profile,
            ] {
                wanted.add_arg(argument).expect("an argument");
            }
            WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await
        });
        let driver = driver.unwrap_or_else(|error| {
            panic!(
                "no browser: {error}\n{}",
                crate::process::log_tail(&log, 20)
            )
        });
        let browser = Browser {
            driver: Mutex::new(Some(driver)),
            runtime,
            process: Some(process),
            log,
        };
        browser.set(look);
        browser
    }

    /// Sets it up in another way.
    pub fn set(&self, look: BrowserLook) {
        self.resize(look.width, 800);
        let scheme = if look.is_dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.tell("Emulation.setEmulatedMedia", &media);
        let scripts = json!({ "value": !look.has_scripts });
        self.tell("Emulation.setScriptExecutionDisabled", &scripts);
    }

    fn resize(&self, width: u32, height: u64) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.tell("Emulation.setDeviceMetricsOverride", &metrics);
    }

    /// A command of the Chrome DevTools Protocol.
    fn tell(&self, command: &str, parameters: &Value) -> Value {
        self.run(command, async |driver| {
            let tools = ChromeDevTools::new(driver.handle.clone());
            tools
                .execute_cdp_with_params(command, parameters.clone())
                .await
        })
    }

    fn run<T>(&self, doing: &str, work: impl AsyncFnOnce(&WebDriver) -> WebDriverResult<T>) -> T {
        self.try_run(work)
            .unwrap_or_else(|error| panic!("the browser, {doing}: {error}"))
    }

    fn try_run<T>(
        &self,
        work: impl AsyncFnOnce(&WebDriver) -> WebDriverResult<T>,
    ) -> Result<T, String> {
        let driver = self.driver.lock().expect("the browser");
        let driver = driver.as_ref().expect("it runs");
        let done = self.runtime.block_on(work(driver));
        done.map_err(|error| error.to_string())
    }

    /// Goes to an address.
    pub fn go(&self, address: &str) {
        self.run(address, async |driver| driver.goto(address).await);
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.run("its address", async |driver| driver.current_url().await)
            .to_string()
    }

    /// The title of the page.
    pub fn title(&self) -> String {
        self.run("the title", async |driver| driver.title().await)
    }

    /// The page as HTML.
    pub fn source(&self) -> String {
        self.run("the source", async |driver| driver.source().await)
    }

    /// The texts that are shown of all elements of a CSS selector.
    pub fn texts(&self, selector: &str) -> Vec<String> {
        self.try_texts(selector)
            .unwrap_or_else(|error| panic!("the browser, {selector}: {error}"))
    }

    fn try_texts(&self, selector: &str) -> Result<Vec<String>, String> {
        self.try_run(async |driver| {
            let mut texts = Vec::new();
            for element in driver.find_all(By::Css(selector)).await? {
                texts.push(element.text().await?);
            }
            Ok(texts)
        })
    }

    /// Waits until an element of a selector shows a text, or has it in it.
    ///
    /// # Panics
    /// When it does not come to that, with what is there.
    pub fn wait_for(&self, selector: &str, text: &str) {
        wait_until(&format!("{selector} with {text:?}"), TIMEOUT, || {
            // What is found may go before its text is read.
            let texts = self.try_texts(selector)?;
            match texts.iter().any(|shown| shown.contains(text)) {
                true => Ok(()),
                false => Err(format!("{texts:?} at {}", self.address())),
            }
        });
    }

    /// Clicks the first element of a selector.
    pub fn click(&self, selector: &str) {
        self.run(selector, async |driver| {
            driver.find(By::Css(selector)).await?.click().await
        });
    }

    /// Types a text into the first field of a selector, instead of what is there.
    pub fn fill(&self, selector: &str, text: &str) {
        self.run(selector, async |driver| {
            let field = driver.find(By::Css(selector)).await?;
            field.clear().await?;
            field.send_keys(text).await
        });
    }

    /// Presses keys where the focus is.
    pub fn press(&self, keys: &str) {
        self.run("keys", async |driver| {
            let focused = driver.active_element().await?;
            focused.send_keys(keys).await
        });
    }

    /// What a script returns.
    pub fn script(&self, script: &str) -> Value {
        self.run(script, async |driver| {
            driver.execute(script, Vec::new()).await?.convert()
        })
    }

    /// Writes what the page looks like, all of it, into a PNG file.
    pub fn screenshot(&self, file: &Path) {
        let width = self
            .script("return window.innerWidth")
            .as_u64()
            .expect("a width");
        let width = u32::try_from(width).expect("a width");
        let height = self.script("return document.documentElement.scrollHeight");
        self.resize(width, height.as_u64().expect("a height").clamp(800, 6000));
        self.run("a screenshot", async |driver| driver.screenshot(file).await);
        self.resize(width, 800);
    }

    /// The file with the driver's output.
    pub fn log_file(&self) -> &Path {
        &self.log
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get_mut().ok().and_then(Option::take) {
            // One that is gone needs no end.
            let _ = self.runtime.block_on(driver.quit());
        }
        if let Some(process) = self.process.take() {
            process.stop(libc::SIGTERM, TIMEOUT);
        }
    }
}

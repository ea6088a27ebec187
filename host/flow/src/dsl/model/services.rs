//! Calls, processes, events and authentication.

use super::{DurationSource, Named, Node, Output, Placed, TaskList};

/// What is called.
#[derive(Debug, Clone)]
pub enum Call {
    /// `asyncapi`.
    AsyncApi(Box<AsyncApiCall>),
    /// `grpc`.
    Grpc(Box<GrpcCall>),
    /// `http`.
    Http(Box<HttpCall>),
    /// `openapi`.
    OpenApi(Box<OpenApiCall>),
    /// `a2a`.
    A2a(Box<A2aCall>),
    /// `mcp`.
    Mcp(Box<McpCall>),
    /// Anything else: a function by its name.
    Function {
        /// The name.
        name: String,
        /// `with`.
        arguments: Option<Node>,
    },
}

/// `with` of `call: asyncapi`.
#[derive(Debug, Clone)]
pub struct AsyncApiCall {
    /// `document`.
    pub document: Resource,
    /// `channel`.
    pub channel: Option<Placed<String>>,
    /// `operation`.
    pub operation: Option<Placed<String>>,
    /// `server`: name and variables.
    pub server: Option<(Placed<String>, Option<Node>)>,
    /// `protocol`.
    pub protocol: Option<Placed<String>>,
    /// `message`: payload and headers.
    pub message: Option<(Option<Node>, Option<Node>)>,
    /// `subscription`.
    pub subscription: Option<Subscription>,
    /// `authentication`.
    pub authentication: Option<Authentication>,
}

/// `subscription` of an AsyncAPI call.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// `filter`.
    pub filter: Option<Placed<String>>,
    /// `consume.for`.
    pub time: Option<DurationSource>,
    /// Until when messages are consumed.
    pub until: SubscriptionEnd,
    /// `foreach`.
    pub iterator: Option<Iterator>,
}

/// Until when messages are consumed.
#[derive(Debug, Clone)]
pub enum SubscriptionEnd {
    /// `amount`.
    Amount(i64),
    /// `while`.
    While(Placed<String>),
    /// `until`.
    Until(Placed<String>),
}

/// `foreach`: what is done with each event or message.
#[derive(Debug, Clone)]
pub struct Iterator {
    /// `item`.
    pub item: Option<Placed<String>>,
    /// `at`.
    pub at: Option<Placed<String>>,
    /// `do`.
    pub tasks: TaskList,
    /// `output`.
    pub output: Option<Output>,
    /// `export`.
    pub export: Option<Output>,
}

/// `with` of `call: grpc`.
#[derive(Debug, Clone)]
pub struct GrpcCall {
    /// `proto`.
    pub proto: Resource,
    /// `service.name`.
    pub service: Placed<String>,
    /// `service.host`.
    pub host: Placed<String>,
    /// `service.port`.
    pub port: Option<i64>,
    /// `service.authentication`.
    pub authentication: Option<Authentication>,
    /// `method`.
    pub method: Placed<String>,
    /// `arguments`.
    pub arguments: Option<Node>,
}

/// `with` of `call: http`.
#[derive(Debug, Clone)]
pub struct HttpCall {
    /// `method`.
    pub method: Placed<String>,
    /// `endpoint`.
    pub endpoint: Endpoint,
    /// `headers`.
    pub headers: Option<Node>,
    /// `body`.
    pub body: Option<Node>,
    /// `query`.
    pub query: Option<Node>,
    /// `output`: `raw`, `content` or `response`.
    pub output: Option<Placed<String>>,
    /// `redirect`.
    pub redirect: Option<bool>,
}

/// `with` of `call: openapi`.
#[derive(Debug, Clone)]
pub struct OpenApiCall {
    /// `document`.
    pub document: Resource,
    /// `operationId`.
    pub operation: Placed<String>,
    /// `parameters`.
    pub parameters: Option<Node>,
    /// `authentication`.
    pub authentication: Option<Authentication>,
    /// `output`: `raw`, `content` or `response`.
    pub output: Option<Placed<String>>,
    /// `redirect`.
    pub redirect: Option<bool>,
}

/// `with` of `call: a2a`.
#[derive(Debug, Clone)]
pub struct A2aCall {
    /// `agentCard`.
    pub agent_card: Option<Resource>,
    /// `server`.
    pub server: Option<Endpoint>,
    /// `method`.
    pub method: Placed<String>,
    /// `parameters`.
    pub parameters: Option<Node>,
}

/// `with` of `call: mcp`.
#[derive(Debug, Clone)]
pub struct McpCall {
    /// `protocolVersion`.
    pub protocol_version: Option<Placed<String>>,
    /// `method`.
    pub method: Placed<String>,
    /// `parameters`.
    pub parameters: Option<Node>,
    /// `timeout`.
    pub timeout: Option<DurationSource>,
    /// `transport`.
    pub transport: McpTransport,
    /// `transport.options`.
    pub options: Option<Node>,
    /// `client`: name and version.
    pub client: Option<(Placed<String>, Placed<String>)>,
}

/// `transport` of an MCP call.
#[derive(Debug, Clone)]
pub enum McpTransport {
    /// `http`.
    Http {
        /// `endpoint`.
        endpoint: Endpoint,
        /// `headers`.
        headers: Option<Node>,
    },
    /// `stdio`.
    Stdio {
        /// `command`.
        command: Placed<String>,
        /// `arguments`.
        arguments: Vec<Placed<String>>,
        /// `environment`.
        environment: Option<Node>,
    },
}

/// `listen`.
#[derive(Debug, Clone)]
pub struct Listen {
    /// `to`.
    pub to: Consumption,
    /// `read`: `data`, `envelope` or `raw`.
    pub read: Option<Placed<String>>,
    /// `foreach`.
    pub iterator: Option<Iterator>,
}

/// Which events are consumed (`eventConsumptionStrategy`).
#[derive(Debug, Clone)]
pub enum Consumption {
    /// `all`.
    All(Vec<EventFilter>),
    /// `any`, with `until`.
    Any(Vec<EventFilter>, Option<Until>),
    /// `one`.
    One(EventFilter),
}

/// Until when any events are consumed.
#[derive(Debug, Clone)]
pub enum Until {
    /// A condition.
    Condition(Placed<String>),
    /// Events.
    Events(Box<Consumption>),
}

/// `eventFilter`.
#[derive(Debug, Clone)]
pub struct EventFilter {
    /// `with`.
    pub with: Node,
    /// `correlate`: `from` and `expect` by name.
    pub correlate: Named<(Placed<String>, Option<Placed<String>>)>,
}

/// `run`.
#[derive(Debug, Clone)]
pub struct Run {
    /// What is run.
    pub process: Placed<Process>,
    /// `await`.
    pub wait: Option<bool>,
    /// `return`: `stdout`, `stderr`, `code`, `all` or `none`.
    pub result: Option<Placed<String>>,
}

/// What a `run` task runs.
#[derive(Debug, Clone)]
pub enum Process {
    /// `container`.
    Container(Box<Container>),
    /// `script`.
    Script(Box<Script>),
    /// `shell`.
    Shell(Box<Shell>),
    /// `workflow`.
    Workflow {
        /// `namespace`.
        namespace: Placed<String>,
        /// `name`.
        name: Placed<String>,
        /// `version`.
        version: Placed<String>,
        /// `input`.
        input: Option<Node>,
    },
}

/// `run.container`.
#[derive(Debug, Clone)]
pub struct Container {
    /// `image`.
    pub image: Placed<String>,
    /// `name`.
    pub name: Option<Placed<String>>,
    /// `command`.
    pub command: Option<Placed<String>>,
    /// `ports`.
    pub ports: Option<Node>,
    /// `volumes`.
    pub volumes: Option<Node>,
    /// `environment`.
    pub environment: Option<Node>,
    /// `stdin`.
    pub stdin: Option<Placed<String>>,
    /// `arguments`.
    pub arguments: Vec<Placed<String>>,
    /// `lifetime.cleanup`: `always`, `never` or `eventually`.
    pub cleanup: Option<Placed<String>>,
    /// `lifetime.after`.
    pub cleanup_after: Option<DurationSource>,
    /// `pullPolicy`: `ifNotPresent`, `always` or `never`.
    pub pull_policy: Option<Placed<String>>,
}

/// `run.script`.
#[derive(Debug, Clone)]
pub struct Script {
    /// `language`.
    pub language: Placed<String>,
    /// `code`.
    pub code: Option<Placed<String>>,
    /// `source`.
    pub source: Option<Resource>,
    /// `stdin`.
    pub stdin: Option<Placed<String>>,
    /// `arguments`.
    pub arguments: Vec<Placed<String>>,
    /// `environment`.
    pub environment: Option<Node>,
}

/// `run.shell`.
#[derive(Debug, Clone)]
pub struct Shell {
    /// `command`.
    pub command: Placed<String>,
    /// `stdin`.
    pub stdin: Option<Placed<String>>,
    /// `arguments`.
    pub arguments: Vec<Placed<String>>,
    /// `environment`.
    pub environment: Option<Node>,
}

/// `externalResource`.
#[derive(Debug, Clone)]
pub struct Resource {
    /// `name`.
    pub name: Option<Placed<String>>,
    /// `endpoint`.
    pub endpoint: Endpoint,
}

/// `endpoint`.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `uri`: a template or an expression.
    pub uri: Placed<String>,
    /// `authentication`.
    pub authentication: Option<Authentication>,
}

/// `authenticationPolicy`, or a reference to one.
#[derive(Debug, Clone)]
pub enum Authentication {
    /// `use`: one of `use.authentications`.
    Use(Placed<String>),
    /// `basic`, `bearer`, `digest`, `oauth2` or `oidc`.
    Scheme {
        /// Which.
        scheme: Placed<String>,
        /// Its configuration.
        policy: Policy,
    },
}

/// The configuration of an authentication scheme.
#[derive(Debug, Clone)]
pub enum Policy {
    /// `use`: the secret that holds it.
    Secret(Placed<String>),
    /// User name and password, of `basic` and `digest`.
    Password(Placed<String>, Placed<String>),
    /// The token, of `bearer`.
    Token(Placed<String>),
    /// The properties, of `oauth2` and `oidc`.
    OAuth2(Node),
}

//! Rows in a DynamoDB table: for members on any number of machines.
//!
//! One item for each row, `space` and `key` its keys. Every write has the version that was seen as its condition, and every
//! read is consistent, so the table answers as the trait asks. On-demand tables are the right ones: a member costs one small
//! write and one query for each `heartbeat`.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::BehaviorVersion;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TableDescription, TableStatus,
};
use msgkit::transport::{TransportError, TransportErrorKind};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use super::{Change, LeaseRow, LeaseStore};
use crate::client::{Account, CALL, CONNECT};
use crate::error::{Cause, classify, invalid};

/// How long a table may take to be made.
const MAKING: Duration = Duration::from_secs(120);
/// How often a call is tried that got no answer, or was too much at once.
const TRIES: u32 = 5;
/// How long a connection may take at least to be made, or to answer, whatever the `heartbeat` is.
const LEAST: Duration = Duration::from_secs(2);

type Item = HashMap<String, AttributeValue>;

/// Leases in a DynamoDB table.
pub struct DynamoDbLeases {
    table: String,
    create: bool,
    source: Source,
    ready: OnceCell<Client>,
}

/// Where the client comes from.
enum Source {
    Given(Client),
    /// And how long a connection may take to be made, and to answer.
    Account(Arc<Account>, Duration),
}

impl DynamoDbLeases {
    /// The leases in `table`, which is created (on-demand) at the first use where it is not there, unless
    /// [`existing`](Self::existing) says otherwise.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { table: table.into(), create: true, source: Source::Given(client), ready: OnceCell::new() }
    }

    /// With the credentials and the region of the transport, whose members give a sign of life every `heartbeat`.
    pub(crate) fn of_account(account: Arc<Account>, table: &str, create: bool, heartbeat: Duration) -> Self {
        // A try that gets no answer must leave time for another one before the member is taken for dead.
        let source = Source::Account(account, heartbeat.clamp(LEAST, CALL));
        Self { table: table.to_owned(), create, source, ready: OnceCell::new() }
    }

    /// The same, where a table that is not there is an error. It needs the keys `space` (HASH) and `key` (RANGE), both `S`.
    #[must_use]
    pub fn existing(mut self) -> Self {
        self.create = false;
        self
    }

    /// The name of the table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The client, once the table is there.
    async fn ready(&self) -> Result<&Client, TransportError> {
        self.ready
            .get_or_try_init(|| async {
                let client = match &self.source {
                    Source::Given(client) => client.clone(),
                    Source::Account(account, patience) => client(account, *patience).await?,
                };
                self.ensure(&client).await?;
                Ok(client)
            })
            .await
    }

    /// Sees to it that the table is there, and is one for leases.
    async fn ensure(&self, client: &Client) -> Result<(), TransportError> {
        let end = Instant::now() + MAKING;
        let mut wait = Duration::from_millis(20);
        loop {
            match client.describe_table().table_name(&self.table).send().await {
                Ok(told) => {
                    let table = told.table.unwrap_or_else(|| TableDescription::builder().build());
                    self.check(&table)?;
                    if matches!(table.table_status, Some(TableStatus::Active | TableStatus::Updating)) {
                        return Ok(());
                    }
                }
                Err(error) if classify(&error).0 == Cause::NotFound && self.create => {
                    self.make(client).await?;
                }
                Err(error) if classify(&error).0 == Cause::NotFound => {
                    return Err(invalid(format!(
                        "the DynamoDB table `{}` of the option `leases` does not exist; create it with the keys `space` \
                         (HASH) and `key` (RANGE), both of type S, or set `create = true`",
                        self.table
                    ))
                    .with_source(error));
                }
                Err(error) => return Err(self.failed("found", error)),
            }
            if Instant::now() >= end {
                return Err(TransportError::new(
                    TransportErrorKind::Timeout,
                    format!("the DynamoDB table `{}` is still being made after {MAKING:?}", self.table),
                ));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    fn check(&self, table: &TableDescription) -> Result<(), TransportError> {
        let is = |at: usize, name: &str, kind: &KeyType| {
            table.key_schema().get(at).is_some_and(|key| key.attribute_name == name && key.key_type == *kind)
        };
        if is(0, "space", &KeyType::Hash) && is(1, "key", &KeyType::Range) {
            return Ok(());
        }
        Err(invalid(format!(
            "the DynamoDB table `{}` of the option `leases` is no table of leases: its keys must be `space` (HASH) and `key` \
             (RANGE); name another one",
            self.table
        )))
    }

    async fn make(&self, client: &Client) -> Result<(), TransportError> {
        let mut call = client.create_table().table_name(&self.table).billing_mode(BillingMode::PayPerRequest);
        for (name, kind) in [("space", KeyType::Hash), ("key", KeyType::Range)] {
            let attribute = AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .map_err(|error| self.impossible(error))?;
            let key = KeySchemaElement::builder()
                .attribute_name(name)
                .key_type(kind)
                .build()
                .map_err(|error| self.impossible(error))?;
            call = call.attribute_definitions(attribute).key_schema(key);
        }
        match call.send().await {
            Ok(_) => Ok(()),
            // Another member makes it at this moment.
            Err(error) if classify(&error).0 == Cause::InUse => Ok(()),
            Err(error) => Err(self.failed("created", error)),
        }
    }

    /// Whether the row is as this write would have left it: its answer was lost, and it was tried again.
    async fn is_ours(&self, space: &str, change: Change<'_>) -> Result<bool, TransportError> {
        let asked = self
            .ready()
            .await?
            .get_item()
            .table_name(&self.table)
            .consistent_read(true)
            .key("space", text(space))
            .key("key", text(change.key))
            .send()
            .await;
        let item = asked.map_err(|error| self.failed("read", error))?.item;
        match (item, change.value) {
            (None, None) => Ok(true),
            (Some(item), Some(value)) => {
                let row = self.row(&item)?;
                Ok(row.version == change.expected + 1 && row.value == value)
            }
            _ => Ok(false),
        }
    }

    fn row(&self, item: &Item) -> Result<LeaseRow, TransportError> {
        let read = || {
            let text = |name: &str| item.get(name)?.as_s().ok();
            let version = item.get("version")?.as_n().ok()?.parse().ok()?;
            Some(LeaseRow::new(text("key")?, version, text("value")?))
        };
        read().ok_or_else(|| {
            invalid(format!(
                "the DynamoDB table `{}` of the option `leases` holds an item that is no lease; give leases a table of their \
                 own",
                self.table
            ))
        })
    }

    /// Whether a write was done; `false` where its condition did not hold.
    fn outcome<T, E>(&self, sent: Result<T, SdkError<E>>) -> Result<bool, TransportError>
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        match sent {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some("ConditionalCheckFailedException") => Ok(false),
            Err(error) => Err(self.failed("written", error)),
        }
    }

    fn impossible(&self, error: impl StdError + Send + Sync + 'static) -> TransportError {
        let text = format!("the DynamoDB table `{}` cannot be described", self.table);
        TransportError::new(TransportErrorKind::Internal, text).with_source(error)
    }

    fn failed<E>(&self, doing: &str, error: SdkError<E>) -> TransportError
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let (cause, kind, _) = classify(&error);
        let hint = match (cause, kind) {
            (Cause::Throttled, _) => "; it is more than the table takes: make it on-demand",
            (_, TransportErrorKind::Refused) => {
                "; look at the credentials, and at what they may do with this table"
            }
            _ => "; look at the options `leases` and `leases_endpoint`, and at the region",
        };
        let text = format!("the DynamoDB table `{}` of leases cannot be {doing}{hint}", self.table);
        TransportError::new(kind, text).with_source(error)
    }
}

impl fmt::Debug for DynamoDbLeases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoDbLeases").field("table", &self.table).finish_non_exhaustive()
    }
}

async fn client(account: &Account, patience: Duration) -> Result<Client, TransportError> {
    let access = account.access().await?;
    let builder = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(access.region.clone())
        .credentials_provider(access.credentials.clone())
        // Every write has its condition, so that trying again changes nothing twice.
        .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
        .timeout_config(
            // The short time is that of the connection: a try begins with finding the credentials, which may take longer.
            TimeoutConfig::builder()
                .connect_timeout(CONNECT.min(patience))
                .read_timeout(patience)
                .operation_attempt_timeout(CALL)
                .build(),
        );
    let builder = match account.leases_endpoint() {
        Some(endpoint) => builder.endpoint_url(endpoint),
        None => builder,
    };
    Ok(Client::from_conf(builder.build()))
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

#[async_trait]
impl LeaseStore for DynamoDbLeases {
    fn is_durable(&self) -> bool {
        true
    }

    async fn load(&self, space: &str) -> Result<Vec<LeaseRow>, TransportError> {
        let client = self.ready().await?;
        let mut rows = Vec::new();
        let mut from: Option<Item> = None;
        loop {
            let asked = client
                .query()
                .table_name(&self.table)
                .consistent_read(true)
                .key_condition_expression("#space = :space")
                .expression_attribute_names("#space", "space")
                .expression_attribute_values(":space", text(space))
                .set_exclusive_start_key(from)
                .send()
                .await;
            let page = asked.map_err(|error| self.failed("read", error))?;
            for item in page.items() {
                rows.push(self.row(item)?);
            }
            // A page ends at a megabyte.
            match page.last_evaluated_key {
                Some(last) if !last.is_empty() => from = Some(last),
                _ => return Ok(rows),
            }
        }
    }

    async fn swap(&self, space: &str, change: Change<'_>) -> Result<bool, TransportError> {
        let client = self.ready().await?;
        let Change { key, expected, value } = change;
        let written = match (expected, value) {
            (0, None) => true,
            (0, Some(value)) => self.outcome(
                client
                    .put_item()
                    .table_name(&self.table)
                    .item("space", text(space))
                    .item("key", text(key))
                    .item("version", number(1))
                    .item("value", text(value))
                    .condition_expression("attribute_not_exists(#key)")
                    .expression_attribute_names("#key", "key")
                    .send()
                    .await,
            )?,
            (_, Some(value)) => self.outcome(
                client
                    .update_item()
                    .table_name(&self.table)
                    .key("space", text(space))
                    .key("key", text(key))
                    .update_expression("SET #version = :next, #value = :value")
                    .condition_expression("#version = :expected")
                    .expression_attribute_names("#version", "version")
                    .expression_attribute_names("#value", "value")
                    .expression_attribute_values(":expected", number(expected))
                    .expression_attribute_values(":next", number(expected + 1))
                    .expression_attribute_values(":value", text(value))
                    .send()
                    .await,
            )?,
            (_, None) => self.outcome(
                client
                    .delete_item()
                    .table_name(&self.table)
                    .key("space", text(space))
                    .key("key", text(key))
                    .condition_expression("#version = :expected")
                    .expression_attribute_names("#version", "version")
                    .expression_attribute_values(":expected", number(expected))
                    .send()
                    .await,
            )?,
        };
        if written { Ok(true) } else { self.is_ours(space, change).await }
    }
}

mod script;
mod store;

use std::time::Duration;

use dgx_gateway_testkit::redis::RedisServer;
use redis::aio::MultiplexedConnection;

const SOON: Duration = Duration::from_secs(20);

async fn connection(server: &RedisServer) -> MultiplexedConnection {
    redis::Client::open(server.url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

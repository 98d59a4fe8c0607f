//! Ends the sessions of members, as the coordinator does when it hears nothing of them: by LeaveGroup requests in their
//! names, which no client offers.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use msgkit::transport::TransportUrl;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

/// Ends the session of every member of the groups that begin with `prefix`; how many.
pub(crate) fn evict(url: &str, prefix: &str) -> io::Result<usize> {
    let address = TransportUrl::parse(url).map_err(io::Error::other)?.address().to_owned();
    let mut members = Vec::new();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &address)
        .set("group.id", "evictor")
        .create()
        .map_err(io::Error::other)?;
    let groups = consumer.fetch_group_list(None, Duration::from_secs(20)).map_err(io::Error::other)?;
    for group in groups.groups().iter().filter(|group| group.name().starts_with(prefix)) {
        members
            .extend(group.members().iter().map(|member| (group.name().to_owned(), member.id().to_owned())));
    }
    let mut stream = TcpStream::connect(&address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    for (group, member) in &members {
        leave(&mut stream, group, member)?;
    }
    Ok(members.len())
}

/// A LeaveGroup request, version 3: the group, and one member without an instance.
fn leave(stream: &mut TcpStream, group: &str, member: &str) -> io::Result<()> {
    let mut body = vec![0, 13, 0, 3, 0, 0, 0, 1, 0xff, 0xff];
    let text = |body: &mut Vec<u8>, text: &str| {
        body.extend(u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
        body.extend(text.as_bytes());
    };
    text(&mut body, group);
    body.extend(1_u32.to_be_bytes());
    text(&mut body, member);
    body.extend([0xff, 0xff]);
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&body)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer)?;
    // Correlation, throttle time, then the error of the whole.
    match answer.get(8..10) {
        Some([0, 0]) => Ok(()),
        error => Err(io::Error::other(format!("LeaveGroup was answered with {error:?}"))),
    }
}

// Package link is the edge between the decisions of internal/layer2 and the
// wire: it follows the node's interfaces by netlink, answers ARP requests and
// Neighbor Solicitations on packet sockets, and sends what the schedule of
// gratuitous announcements says. It needs CAP_NET_RAW and nothing else.
//
// A question takes the short way: socket filter, codec, one look into an
// immutable table, reply from the interface it came in on with the hardware
// address that interface has now. No lock is taken and no other goroutine is
// asked. Everything else (which sockets are open, which groups are joined, what
// the filters let in, what is announced when) is computed anew from the whole
// of what is wanted and the whole of what the kernel has, whenever either
// changes.
//
// # Goroutines
//
//	who                      started by  owns                              ended by
//	[Link.Run]               the caller  ports, groups, filters, schedule  its context
//	netlink receiver         Run         the subscription's reads          Run closing the socket
//	reader (interface x      Run         its socket's reads; writes only   Run closing the socket: the
//	family that has claims)              replies                           interface or its last claim is gone
//
// Run waits for all of them before it returns. [Link.Probe] and [Link.Detect]
// run on their caller's goroutine, with sockets of their own; Detect has a
// reader for each family, which it ends before it returns.
//
// Every socket is opened by the goroutine that calls Run (or Probe, or Detect),
// so whoever locks that goroutine to a thread in another network namespace gets
// a Link that lives there.
package link

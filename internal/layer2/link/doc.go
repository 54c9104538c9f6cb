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
// The reader of a socket waits in poll(2) and not with the Go runtime, so that a
// frame wakes the thread that answers it and no other; the poll's second
// descriptor ends the wait when the socket is closed. That blocks a thread for
// each socket: the first 32 have one, and the others of a node with very many
// interfaces wait with the runtime. A plain read(2) would be a little quicker,
// but nothing ends it while its interface lives.
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
// so a caller that locks that goroutine to a thread in another network namespace gets
// a Link that lives there.
package link

package watch

import (
	"errors"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/lb"
)

// A packet is what came, and how.
type packet struct {
	path
	iface, ttl int
	octets     []byte // until the next one is read
}

// A receiver reads packets with what the kernel says of them.
type receiver struct {
	family          lb.Family
	buffer, control []byte
}

func newReceiver(f lb.Family) *receiver {
	return &receiver{family: f, buffer: make([]byte, 256), control: make([]byte, 256)}
}

// errDeadline says that nothing came in time, errNothing that nothing is there.
var errDeadline, errNothing = os.ErrDeadlineExceeded, errors.New("nothing has arrived")

// next waits for a packet until the read deadline.
func (r *receiver) next(raw syscall.RawConn) (p packet, err error) {
	if failed := raw.Read(func(fd uintptr) bool {
		p, err = r.receive(int(fd))
		return !errors.Is(err, errNothing)
	}); failed != nil {
		return p, failed
	}
	return p, err
}

// waiting returns a packet that has arrived, or errNothing.
func (r *receiver) waiting(raw syscall.RawConn) (p packet, err error) {
	if failed := raw.Control(func(fd uintptr) { p, err = r.receive(int(fd)) }); failed != nil {
		return p, failed
	}
	return p, err
}

func (r *receiver) receive(fd int) (packet, error) {
	n, c, _, from, err := unix.Recvmsg(fd, r.buffer, r.control, unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return packet{}, errNothing
	case err != nil:
		return packet{}, err
	}
	p := packet{octets: r.buffer[:n]}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		var said ipv4.ControlMessage
		if said.Parse(r.control[:c]) == nil {
			local, _ := netip.AddrFromSlice(said.Dst.To4())
			p.path, p.iface, p.ttl = path{local, netip.AddrFrom4(from.Addr)}, said.IfIndex, said.TTL
		}
	case *unix.SockaddrInet6:
		var said ipv6.ControlMessage
		if said.Parse(r.control[:c]) == nil {
			local, _ := netip.AddrFromSlice(said.Dst)
			p.path, p.iface, p.ttl = path{local, netip.AddrFrom16(from.Addr)}, said.IfIndex, said.HopLimit
		}
	}
	return p, nil
}

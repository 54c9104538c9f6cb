package guard

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/sockfilter"
)

// A Conn is a connection to a router, and what is to be known of it when the router
// seems silent.
type Conn struct {
	*net.TCPConn
	// distant is nil where every TTL will do, and where the kernel refuses it.
	distant *witness
}

// Close closes the connection.
func (c *Conn) Close() error {
	c.distant.close()
	return c.TCPConn.Close()
}

// trace returns what the kernel knows of the connection.
func (c *Conn) trace() (t bgp.Trace) {
	t.TTL = c.distant.ttl()
	raw, err := c.SyscallConn()
	if err != nil {
		return t
	}
	_ = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		t.Unacknowledged = err == nil && info.Unacked > 0 && info.Retransmits >= 2
	})
	return t
}

// A witness sees a router's segments that have come from farther away than they may.
// The kernel drops them without a word (IP_MINTTL); a raw socket sees them all the
// same. It needs NET_RAW.
type witness struct {
	conn *net.IPConn
	// from is the router, last the TTL of its last such segment.
	from netip.Addr
	last int
}

// newWitness watches for what comes of a router with too low a TTL.
func newWitness(t Transport) (*witness, error) {
	from := t.Remote.Addr()
	filter, err := sockfilter.Assemble(distant(from.Is6(), t.Remote.Port(), t.MinTTL)...)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if gone := c.Control(func(fd uintptr) {
			err = filter.Attach(fd)
			if from.Is6() {
				preferLasting(int(fd)) // as the connection has it
			}
			if err == nil && from.Is6() {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 1)
			}
			if err == nil && t.Device != "" {
				err = unix.BindToDevice(int(fd), t.Device)
			}
		}); gone != nil {
			return gone
		}
		return err
	}}
	if t.Source.IsValid() {
		d.LocalAddr = &net.IPAddr{IP: t.Source.AsSlice(), Zone: t.source().Zone()}
	}
	network := "ip6:tcp"
	if from.Is4() {
		network = "ip4:tcp"
	}
	conn, err := d.Dial(network, from.String())
	if err != nil {
		return nil, fmt.Errorf("watch the segments of %v: %w", from, rootOf(err))
	}
	return &witness{conn: conn.(*net.IPConn), from: from.WithZone("")}, nil
}

// distant is a filter of TCP segments that come from a port with a TTL below a limit.
func distant(v6 bool, port uint16, limit int) []bpf.Instruction {
	// A raw socket's packets begin with the header of IPv4, or after that of IPv6,
	// which is found relative to the network header (SKF_NET_OFF).
	const network = 0xfff00000
	ttl := []bpf.Instruction{bpf.LoadAbsolute{Off: 8, Size: 1}}
	from := []bpf.Instruction{bpf.LoadMemShift{Off: 0}, bpf.LoadIndirect{Off: 0, Size: 2}}
	if v6 {
		ttl = []bpf.Instruction{bpf.LoadAbsolute{Off: network + 7, Size: 1}}
		from = []bpf.Instruction{bpf.LoadAbsolute{Off: 0, Size: 2}}
	}
	program := append(ttl, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: uint32(limit), SkipTrue: 1}, bpf.RetConstant{Val: 0})
	program = append(program, from...)
	return append(program, bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(port), SkipTrue: 1}, bpf.RetConstant{Val: 0}, bpf.RetConstant{Val: 60})
}

// ttl returns the TTL of the last segment seen, 0 for none.
func (w *witness) ttl() int {
	if w == nil {
		return 0
	}
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return w.last
	}
	_ = raw.Read(func(fd uintptr) bool {
		packet, control := make([]byte, 60), make([]byte, unix.CmsgSpace(4))
		for {
			n, controls, _, from, err := unix.Recvmsg(int(fd), packet, control, unix.MSG_DONTWAIT)
			if err != nil {
				return true
			}
			w.note(packet[:n], control[:controls], from)
		}
	})
	return w.last
}

// note looks at one segment. What arrived before the socket was connected may be of
// another host.
func (w *witness) note(packet, control []byte, from unix.Sockaddr) {
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		if netip.AddrFrom4(from.Addr) == w.from && len(packet) > 8 {
			w.last = int(packet[8])
		}
	case *unix.SockaddrInet6:
		messages, err := unix.ParseSocketControlMessage(control)
		if err != nil || netip.AddrFrom16(from.Addr) != w.from {
			return
		}
		for _, m := range messages {
			if m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_HOPLIMIT && len(m.Data) >= 4 {
				w.last = int(binary.NativeEndian.Uint32(m.Data))
			}
		}
	}
}

func (w *witness) close() {
	if w != nil {
		w.conn.Close()
	}
}

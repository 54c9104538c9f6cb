package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/lb"
)

// MaxPassword is the greatest length of a password (TCP_MD5SIG_MAXKEYLEN).
const MaxPassword = unix.TCP_MD5SIG_MAXKEYLEN

// dialTimeout bounds one attempt: the SYN and two repetitions
// (docs/design/guard.md).
const dialTimeout = 5 * time.Second

// sendBuffer is the size of a connection's send buffer, in octets
// (docs/design/bounds.md).
const sendBuffer = 64 << 10

// A Transport is how to reach a router.
type Transport struct {
	// Remote is the router; a link-local address has a zone.
	Remote netip.AddrPort
	// Source is the address to dial from; invalid leaves it to the kernel.
	Source netip.Addr
	// Device is bound to; empty for none.
	Device string
	// TTL is that of our packets, MinTTL the least that the router's may arrive
	// with; 0 leaves either to the kernel.
	TTL, MinTTL int
	// Password signs every segment (RFC 2385); empty for none.
	Password lb.Secret
}

// TransportOf returns how to reach a peer's router at an address, which is
// p.Address unless the peer is found by interface.
func TransportOf(p lb.BGPPeer, address netip.Addr) Transport {
	port := p.Port
	if port == 0 {
		port = bgp.DefaultPort
	}
	t := Transport{Remote: netip.AddrPortFrom(address, port), Source: p.Source, Device: p.VRF, Password: p.Password}
	switch {
	case p.TTLSecurity > 0:
		// RFC 5082: sent with 255, the router's has lost one at each hop.
		t.TTL, t.MinTTL = 255, 256-p.TTLSecurity
	case p.EBGPMultiHop:
		t.TTL = 255
	case !bgp.Internal(p):
		// An external router is next door (RFC 4271 section 5.1.3).
		t.TTL = 1
	}
	return t
}

// source returns the address to dial from, with the zone that a link-local one needs.
func (t Transport) source() netip.Addr {
	if zone := t.Remote.Addr().Zone(); zone != "" && t.Source.IsLinkLocalUnicast() {
		return t.Source.WithZone(zone)
	}
	return t.Source
}

// Dial connects to the router. The error is a [*bgp.Fault] in words.
func Dial(ctx context.Context, t Transport) (*Conn, error) {
	if n := len(t.Password.Reveal()); n > MaxPassword {
		return nil, &bgp.Fault{Cause: bgp.PasswordMissing, Text: fmt.Sprintf("the password has %d octets, TCP MD5 takes %d", n, MaxPassword)}
	}
	var control error
	d := net.Dialer{
		Timeout: dialTimeout,
		Control: func(_, _ string, c syscall.RawConn) error {
			if err := c.Control(func(fd uintptr) { control = t.setOptions(int(fd)) }); err != nil {
				return err
			}
			return control
		},
	}
	d.SetMultipathTCP(false)
	if t.Source.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.source(), 0))
	}
	network := "tcp6"
	if t.Remote.Addr().Is4() {
		network = "tcp4"
	}
	var distant *witness
	if t.MinTTL > 0 {
		// Without it there are fewer words; the session does not need it.
		distant, _ = newWitness(t)
	}
	conn, err := d.DialContext(ctx, network, t.Remote.String())
	if err != nil {
		defer distant.close()
		return nil, t.fault(err, control != nil, distant.ttl())
	}
	return &Conn{TCPConn: conn.(*net.TCPConn), distant: distant}, nil
}

// setOptions prepares a socket before it connects.
func (t Transport) setOptions(fd int) error {
	v6 := t.Remote.Addr().Is6()
	level, ttl, min, class := unix.IPPROTO_IP, unix.IP_TTL, unix.IP_MINTTL, unix.IP_TOS
	if v6 {
		level, ttl, min, class = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, unix.IPV6_MINHOPCOUNT, unix.IPV6_TCLASS
	}
	// Network control (CS6), as routers mark it, so that a congested link drops
	// other packets first. Not worth a session if the kernel will not have it.
	_ = unix.SetsockoptInt(fd, level, class, 0xc0)
	// A router that does not read holds no more of the kernel's memory than this.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, sendBuffer)
	if v6 {
		preferLasting(fd)
	}
	if t.TTL > 0 {
		if err := unix.SetsockoptInt(fd, level, ttl, t.TTL); err != nil {
			return fmt.Errorf("set TTL %d: %w", t.TTL, err)
		}
	}
	if t.MinTTL > 0 {
		if err := unix.SetsockoptInt(fd, level, min, t.MinTTL); err != nil {
			return fmt.Errorf("set minimum TTL %d: %w", t.MinTTL, err)
		}
	}
	if t.Device != "" {
		if err := unix.BindToDevice(fd, t.Device); err != nil {
			return fmt.Errorf("bind to device %s: %w", t.Device, err)
		}
	}
	if !t.Password.Empty() {
		if err := setMD5(fd, t.Remote.Addr(), t.Password); err != nil {
			return fmt.Errorf("set TCP MD5 key: %w", err)
		}
	}
	return nil
}

// preferLasting has the kernel choose a source address that lasts. A temporary one (RFC
// 8981), which many systems prefer, is another every day, and no router knows it as a
// neighbor's.
func preferLasting(fd int) {
	const public = 0x2 // IPV6_PREFER_SRC_PUBLIC of Linux (RFC 5014)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_ADDR_PREFERENCES, public)
}

// setMD5 installs the key for one address. It carries no interface, which makes
// it valid on whichever the segments take, a VRF's included.
func setMD5(fd int, a netip.Addr, password lb.Secret) error {
	var sig unix.TCPMD5Sig
	sig.Keylen = uint16(copy(sig.Key[:], password.Reveal()))
	// A sockaddr: family, then the port, which the kernel does not look at, then
	// for IPv6 the flow label, then the address. Data begins after the family.
	if a.Is4() {
		sig.Addr.Family = unix.AF_INET
		copy(sig.Addr.Data[2:], a.AsSlice())
	} else {
		sig.Addr.Family = unix.AF_INET6
		copy(sig.Addr.Data[6:], a.AsSlice())
	}
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, unix.TCP_MD5SIG, &sig)
}

// fault classifies an error of dialing. Ttl is that of segments of the router that the
// kernel dropped for it, 0 for none.
func (t Transport) fault(err error, option bool, ttl int) *bgp.Fault {
	to := t.Remote.String()
	switch {
	case option:
		return &bgp.Fault{Cause: bgp.SourceUnusable, Text: fmt.Sprintf("prepare the connection to %s: %v", to, rootOf(err))}
	case errors.Is(err, context.Canceled):
		return &bgp.Fault{Cause: bgp.Leave, Text: "no longer wanted"}
	case errors.Is(err, unix.ECONNREFUSED):
		return &bgp.Fault{Cause: bgp.ConnectionRefused, Text: "connection refused by " + to}
	case errors.Is(err, unix.ECONNRESET):
		return &bgp.Fault{Cause: bgp.ClosedBeforeOpen, Text: "connection to " + to + " reset by the router at once; does it know this node as a neighbor?"}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, unix.ETIMEDOUT):
		switch {
		case ttl > 0:
			return bgp.TooFar(ttl, t.MinTTL)
		case !t.Password.Empty():
			return &bgp.Fault{Cause: bgp.MD5Suspected, Text: "MD5 mismatch suspected: SYN unanswered by " + to}
		case t.MinTTL > 0:
			return &bgp.Fault{Cause: bgp.Unanswered, Text: "SYN unanswered by " + to + " (away, filtered, or it wants a password)"}
		}
		return &bgp.Fault{Cause: bgp.Unanswered, Text: "SYN unanswered by " + to + " (away, filtered, or it wants a password, or GTSM: ttlSecurity)"}
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.EINVAL):
		return &bgp.Fault{Cause: bgp.SourceUnusable, Text: fmt.Sprintf("source address for %s: %v", to, rootOf(err))}
	default:
		return &bgp.Fault{Cause: bgp.Unreachable, Text: fmt.Sprintf("no way to %s: %v", to, rootOf(err))}
	}
}

// rootOf drops the wrapping that package net puts round an error: it repeats
// addresses that our own words name already.
func rootOf(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	var call *os.SyscallError
	if errors.As(err, &call) {
		err = call.Err
	}
	return err
}

// Predict returns the address that a connection would be made from, with a zone if it
// is link-local, as the kernel's routes have it now; invalid if there is none. It sends
// nothing.
func (t Transport) Predict() netip.Addr {
	if t.Source.IsValid() {
		return t.Source
	}
	// Connecting a datagram socket chooses its source address.
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if gone := c.Control(func(fd uintptr) {
			if t.Remote.Addr().Is6() {
				preferLasting(int(fd))
			}
			if t.Device != "" {
				err = unix.BindToDevice(int(fd), t.Device)
			}
		}); gone != nil {
			return gone
		}
		return err
	}}
	conn, err := d.Dial("udp", t.Remote.String())
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
}

// OnLink reports whether an address is in the subnet of an interface of ours.
func OnLink(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, n := range addrs {
		if p, err := netip.ParsePrefix(n.String()); err == nil && p.Contains(a.WithZone("")) {
			return true
		}
	}
	return false
}

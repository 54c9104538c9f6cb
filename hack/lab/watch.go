package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A ClaimKind is a way to say "this address is at my hardware address".
type ClaimKind uint8

// The ways.
const (
	// ARPReply answers a request (RFC 826).
	ARPReply ClaimKind = iota
	// ARPAnnounce is a gratuitous request, sender and target alike (RFC 5227).
	ARPAnnounce
	// ARPGratuitousReply is a reply with sender and target alike.
	ARPGratuitousReply
	// ARPRequest asks for another address, in the name of this one.
	ARPRequest
	// SolicitedNA answers a solicitation (RFC 4861).
	SolicitedNA
	// UnsolicitedNA answers none.
	UnsolicitedNA
)

// String names the kind for a timeline.
func (k ClaimKind) String() string {
	return [...]string{"ARP reply", "gratuitous ARP request", "gratuitous ARP reply", "ARP request", "solicited NA", "unsolicited NA"}[k]
}

// Answers reports whether it answers a question, rather than being sent unasked.
func (k ClaimKind) Answers() bool { return k == ARPReply || k == SolicitedNA }

// A Claim is a frame that claims an address.
type Claim struct {
	// At is when the kernel saw the frame.
	At      time.Time
	Kind    ClaimKind
	Address netip.Addr
	// MAC is the hardware address that the frame gives for it.
	MAC net.HardwareAddr
	// Host is the host that has that hardware address.
	Host string
	// Source is the Ethernet source; it differs from MAC only if somebody lies
	// or relays.
	Source net.HardwareAddr
	// To is whom an answer is for, by its IP address.
	To netip.Addr
	// Override is the NA's flag.
	Override bool
}

// String is the claim in a line.
func (c Claim) String() string {
	return fmt.Sprintf("%s %s: %s is at %s (%s)", c.At.Format("15:04:05.000"), c.Kind, c.Address, c.MAC, c.Host)
}

// A Watcher records every ARP and NDP frame on a host's interface that claims
// an address, whoever it is for. On the client it sees what the client could
// see: broadcasts, and what is sent to it. On the switch it sees every frame
// of the segment as it comes in.
type Watcher struct {
	network *Network
	sock    *rawSocket
	done    chan struct{}

	mu     sync.Mutex
	claims []Claim
	news   chan struct{} // closed and renewed on each claim
}

// Watch starts a watcher on a host; it records until it is closed.
func (o *Observers) Watch(host string) (*Watcher, error) {
	sock, err := o.openRaw(host)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", host, err)
	}
	w := &Watcher{network: o.network, sock: sock, done: make(chan struct{}), news: make(chan struct{})}
	go func() {
		defer close(w.done)
		_ = sock.receive(func(at time.Time, frame []byte) {
			c, ok := parseClaim(frame)
			if !ok {
				return
			}
			c.At, c.Host = at, o.network.HostOf(c.MAC)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.claims = append(w.claims, c)
			close(w.news)
			w.news = make(chan struct{})
		})
	}()
	return w, nil
}

// Claims returns what it saw so far of an address; of all addresses when it is
// the zero Addr.
func (w *Watcher) Claims(address netip.Addr) []Claim {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !address.IsValid() {
		return slices.Clone(w.claims)
	}
	var some []Claim
	for _, c := range w.claims {
		if c.Address == address {
			some = append(some, c)
		}
	}
	return some
}

// News returns a channel that is closed with the next claim.
func (w *Watcher) News() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.news
}

// Close ends the watch; what it saw stays.
func (w *Watcher) Close() {
	w.sock.Close()
	<-w.done
}

// parseClaim decodes an Ethernet frame. It trusts nothing in it.
func parseClaim(frame []byte) (Claim, bool) {
	if len(frame) < 14 {
		return Claim{}, false
	}
	source, payload := bytes.Clone(frame[6:12]), frame[14:]
	var c Claim
	ok := false
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		c, ok = parseARP(payload)
	case unix.ETH_P_IPV6:
		c, ok = parseNA(payload, source)
	}
	c.Source = source
	return c, ok
}

// parseARP decodes a packet of RFC 826 for IPv4 over Ethernet.
func parseARP(b []byte) (Claim, bool) {
	if len(b) < 28 || !bytes.Equal(b[:6], []byte{0, 1, 8, 0, 6, 4}) {
		return Claim{}, false
	}
	op := binary.BigEndian.Uint16(b[6:])
	sender, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	if sender.IsUnspecified() {
		return Claim{}, false // a probe claims nothing (RFC 5227)
	}
	c := Claim{Address: sender, MAC: bytes.Clone(b[8:14]), To: target}
	switch {
	case op == 1 && sender == target:
		c.Kind = ARPAnnounce
	case op == 1:
		c.Kind = ARPRequest
	case op == 2 && sender == target:
		c.Kind = ARPGratuitousReply
	case op == 2:
		c.Kind = ARPReply
	default:
		return Claim{}, false
	}
	return c, true
}

// parseNA decodes a neighbor advertisement (RFC 4861, 4.4). Without the
// option for it, the hardware address is the frame's source.
func parseNA(b []byte, source net.HardwareAddr) (Claim, bool) {
	const header, icmp = 40, 24
	if len(b) < header+icmp || b[0]>>4 != 6 || b[6] != unix.IPPROTO_ICMPV6 || b[7] != 255 || b[header] != 136 {
		return Claim{}, false
	}
	b = b[:min(len(b), header+int(binary.BigEndian.Uint16(b[4:])))]
	if len(b) < header+icmp {
		return Claim{}, false
	}
	flags := b[header+4]
	c := Claim{
		Kind: UnsolicitedNA, Address: netip.AddrFrom16([16]byte(b[header+8 : header+24])), MAC: source,
		To: netip.AddrFrom16([16]byte(b[24:40])), Override: flags&0x20 != 0,
	}
	if flags&0x40 != 0 {
		c.Kind = SolicitedNA
	}
	for opts := b[header+icmp:]; len(opts) >= 8 && opts[1] > 0 && len(opts) >= int(opts[1])*8; opts = opts[int(opts[1])*8:] {
		if opts[0] == 2 { // target link-layer address
			c.MAC = bytes.Clone(opts[2:8])
		}
	}
	return c, true
}

// A rawSocket receives and sends whole frames in a host's namespace.
type rawSocket struct {
	f     *os.File
	index int
}

// openRaw opens a packet socket on a host's interface, or on all of the
// switch's ports. It is promiscuous.
func (o *Observers) openRaw(host string) (*rawSocket, error) {
	var s *rawSocket
	err := o.network.inside(host, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(unix.ETH_P_ALL)))
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		f := os.NewFile(uintptr(fd), "packet socket on "+host)
		index := 0
		if host != Switch {
			nic, err := net.InterfaceByName(NIC)
			if err != nil {
				return errors.Join(err, f.Close())
			}
			index = nic.Index
			if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}); err != nil {
				return errors.Join(fmt.Errorf("bind: %w", err), f.Close())
			}
			if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}); err != nil {
				return errors.Join(fmt.Errorf("promiscuous: %w", err), f.Close())
			}
		}
		// Frames wait here while this process is not scheduled.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20); err != nil {
			return errors.Join(fmt.Errorf("receive buffer: %w", err), f.Close())
		}
		// The kernel's own time, as ours says when we were scheduled.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return errors.Join(fmt.Errorf("timestamps: %w", err), f.Close())
		}
		s = &rawSocket{f: f, index: index}
		return nil
	})
	return s, err
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// Close ends receive.
func (s *rawSocket) Close() { s.f.Close() }

// receive passes each frame that comes in to got, until the socket is closed.
// Frames that this host sends are left out.
func (s *rawSocket) receive(got func(at time.Time, frame []byte)) error {
	conn, err := s.f.SyscallConn()
	if err != nil {
		return err
	}
	var (
		frame = make([]byte, 65536)
		oob   = make([]byte, 128)
	)
	for {
		var (
			n, oobn int
			from    unix.Sockaddr
			rerr    error
		)
		if err := conn.Read(func(fd uintptr) bool {
			n, oobn, _, from, rerr = unix.Recvmsg(int(fd), frame, oob, 0)
			return rerr != unix.EAGAIN
		}); err != nil {
			return nil // closed
		}
		if rerr != nil {
			if errors.Is(rerr, unix.ENETDOWN) || errors.Is(rerr, unix.EINTR) {
				continue // the interface went down; it comes back
			}
			return rerr
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		got(kernelTime(oob[:oobn]), frame[:n])
	}
}

// kernelTime is the time stamp of a received frame.
func kernelTime(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			ts := *(*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			return time.Unix(ts.Unix())
		}
	}
	return time.Now()
}

// send puts a frame on the wire.
func (s *rawSocket) send(frame []byte) error {
	_, err := s.f.Write(frame)
	return err
}

package link

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/layer2"
)

// A socket receives the frames of one EtherType on one interface that its
// filter lets in, and sends on that interface.
type socket struct {
	conn   *packet.Conn
	raw    syscall.RawConn
	closed atomic.Bool // tells the error of reading a closed socket from others
}

func openSocket(ifindex, etherType int, filter []bpf.Instruction) (*socket, error) {
	program, err := bpf.Assemble(filter)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	conn, err := packet.Listen(&net.Interface{Index: ifindex}, packet.Raw, etherType, &packet.Config{Filter: program})
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &socket{conn: conn, raw: raw}, nil
}

func (s *socket) setFilter(filter []bpf.Instruction) error {
	program, err := bpf.Assemble(filter)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	return s.conn.SetBPF(program)
}

// receive hands each frame to handle, which must not keep it, until the socket
// is closed (nil) or broken.
func (s *socket) receive(handle func(frame []byte)) error {
	buffer := make([]byte, 2048)
	var n int
	var failure error
	read := func(fd uintptr) bool {
		n, failure = unix.Read(int(fd), buffer)
		return !errors.Is(failure, unix.EAGAIN)
	}
	for {
		err := s.raw.Read(read)
		switch {
		case err != nil && s.closed.Load():
			return nil
		case err != nil:
			return err
		case errors.Is(failure, unix.ENETDOWN), errors.Is(failure, unix.EINTR):
			// The interface went down. The socket stays bound and hears again
			// when it comes up.
		case failure != nil:
			return failure
		default:
			handle(buffer[:n])
		}
	}
}

// send hands a frame to the kernel, and does not wait for it to have room.
func (s *socket) send(frame []byte) error {
	var failure error
	if err := s.raw.Write(func(fd uintptr) bool {
		_, failure = unix.Write(int(fd), frame)
		return true
	}); err != nil {
		return err
	}
	return failure
}

func (s *socket) close() {
	s.closed.Store(true)
	s.conn.Close()
}

// A membership keeps an interface in solicited-node groups, so that its card
// and the switches that snoop MLD let their frames through. The kernel joins
// for a socket, and a socket can hold only so many groups (net.core.optmem_max),
// so there are as many sockets as it takes.
type membership struct {
	ifindex int
	sockets []int
	joined  map[layer2.Group]int // the socket's place in sockets
}

func newMembership(ifindex int) *membership {
	return &membership{ifindex: ifindex, joined: map[layer2.Group]int{}}
}

// set joins and leaves until exactly these groups are joined. It returns the
// first refusal; calling it again tries again.
func (m *membership) set(groups map[layer2.Group]struct{}) error {
	for g, n := range m.joined {
		if _, ok := groups[g]; !ok {
			_ = m.option(m.sockets[n], unix.IPV6_LEAVE_GROUP, g) // fails only if it is gone already
			delete(m.joined, g)
		}
	}
	for g := range groups {
		if _, ok := m.joined[g]; ok {
			continue
		}
		if err := m.join(g); err != nil {
			return fmt.Errorf("join %v: %w", g.Address(), err)
		}
	}
	return nil
}

func (m *membership) join(g layer2.Group) error {
	for n := len(m.sockets) - 1; n >= 0; n-- {
		err := m.option(m.sockets[n], unix.IPV6_JOIN_GROUP, g)
		if err == nil {
			m.joined[g] = n
			return nil
		}
		if !full(err) {
			return err
		}
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := m.option(fd, unix.IPV6_JOIN_GROUP, g); err != nil {
		unix.Close(fd)
		return err
	}
	m.sockets = append(m.sockets, fd)
	m.joined[g] = len(m.sockets) - 1
	return nil
}

func full(err error) bool { return errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) }

func (m *membership) option(fd, name int, g layer2.Group) error {
	return unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, name, &unix.IPv6Mreq{
		Multiaddr: g.Address().As16(), Interface: uint32(m.ifindex),
	})
}

func (m *membership) close() {
	for _, fd := range m.sockets {
		unix.Close(fd)
	}
	m.sockets, m.joined = nil, map[layer2.Group]int{}
}

package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/sockfilter"
)

// A socket receives the frames of one EtherType on one interface that its
// filter lets in, and sends on that interface.
type socket struct {
	index int
	conn  descriptor
	raw   syscall.RawConn
	// alarm ends the wait of the thread that waits for frames; nil when the
	// runtime does. It is closed by receive.
	alarm  *os.File
	closed atomic.Bool // tells the error of reading a closed socket from others
}

// A descriptor is a file that is not closed while it is in use.
type descriptor interface {
	syscall.Conn
	io.Closer
	SetReadDeadline(time.Time) error
}

// A wait is how a socket waits for frames.
type wait uint8

const (
	// byRuntime waits with all else that the Go runtime waits for. That costs
	// nothing, but between a frame and its reader stand the runtime's poller and
	// its scheduler.
	byRuntime wait = iota
	// byThread keeps a thread blocked in the kernel, which a frame wakes
	// straight away. Only receive can wait so, and it must be called.
	byThread
)

func openSocket(ifindex, etherType int, w wait, filter []bpf.Instruction) (*socket, error) {
	s := socket{index: ifindex}
	program, err := bpf.Assemble(s.own(filter))
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	conn, err := packet.Listen(&net.Interface{Index: ifindex}, packet.Raw, etherType, &packet.Config{Filter: program})
	if err != nil {
		return nil, err
	}
	s.conn = conn
	if w == byThread {
		s.conn, err = detach(conn)
		conn.Close()
		if err != nil {
			return nil, err
		}
		alarm, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err != nil {
			s.conn.Close()
			return nil, os.NewSyscallError("eventfd", err)
		}
		s.alarm = os.NewFile(uintptr(alarm), "alarm")
	}
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		s.conn.Close()
		return nil, err
	}
	return &s, nil
}

// detach returns another descriptor of a socket, of which the runtime's poller
// does not know: else it would wake for each frame as well.
func detach(conn syscall.Conn) (*os.File, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, failure := -1, error(nil)
	if err := raw.Control(func(old uintptr) { fd, failure = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failure != nil {
		return nil, os.NewSyscallError("fcntl", failure)
	}
	// NewFile gives to the poller what does not block.
	failure = unix.SetNonblock(fd, false)
	file := os.NewFile(uintptr(fd), "packet")
	if failure == nil {
		failure = unix.SetNonblock(fd, true)
	}
	if failure != nil {
		file.Close()
		return nil, os.NewSyscallError("fcntl", failure)
	}
	return file, nil
}

// own has a filter refuse what is for a device that is stacked on the interface, such as
// a macvlan or a VLAN: the kernel shows that to sockets of the interface below as well.
func (s *socket) own(filter []bpf.Instruction) []bpf.Instruction {
	return append([]bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtInterfaceIndex},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(s.index), SkipTrue: 1},
		bpf.RetConstant{Val: 0},
	}, filter...)
}

func (s *socket) setFilter(filter []bpf.Instruction) error {
	program, err := sockfilter.Assemble(s.own(filter)...)
	if err != nil {
		return fmt.Errorf("assemble filter: %w", err)
	}
	var failure error
	if err := s.raw.Control(func(fd uintptr) { failure = program.Attach(fd) }); err != nil {
		return err
	}
	return os.NewSyscallError("setsockopt", failure)
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
	if s.alarm != nil {
		defer s.alarm.Close()
		either := []unix.PollFd{{Events: unix.POLLIN}, {Fd: int32(s.alarm.Fd()), Events: unix.POLLIN}}
		read = func(fd uintptr) bool {
			either[0].Fd = int32(fd)
			if _, failure = unix.Poll(either, -1); failure == nil {
				n, failure = unix.Read(int(fd), buffer)
			}
			return true
		}
	}
	for {
		err := s.raw.Read(read)
		switch {
		case err != nil && s.closed.Load():
			return nil
		case err != nil:
			return err
		case errors.Is(failure, unix.ENETDOWN), errors.Is(failure, unix.EINTR), errors.Is(failure, unix.EAGAIN):
			// The interface went down. The socket stays bound and hears again
			// when it comes up. Or a signal or the alarm ended the wait.
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

// close ends receive, too, and does not wait for it.
func (s *socket) close() {
	s.closed.Store(true)
	s.release()
}

func (s *socket) release() {
	s.conn.Close()
	if s.alarm != nil {
		_, _ = s.alarm.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) // fails when receive has ended
	}
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

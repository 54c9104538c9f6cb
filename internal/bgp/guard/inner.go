package guard

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp/wire"
)

// innerTimeout bounds what happens on loopback, between two parts of one
// process (docs/design/guard.md).
const innerTimeout = 20 * time.Second

// An Inner is the connection that a gobgp server holds with us in place of its
// router. It lives as long as that server; Links to the router come and go.
//
// It is we who dial: gobgp waits for a second before it does. Its listener takes
// packets from the socket that dials, and from no other on the node (see Seal), and is
// closed once that has been taken.
type Inner struct {
	// server is where gobgp is to listen, own the end that dials, which socket has.
	server, own netip.AddrPort
	socket      *os.File
	// said is called when gobgp has said the whole table of a family.
	said func(wire.Family)
	// conn is set by Dial.
	conn net.Conn
	// writing serializes writes to conn, which are short and read at once.
	writing sync.Mutex

	// mu guards what follows. It is not held while anything waits.
	mu   sync.Mutex
	link *Link
	// owed counts the tables that gobgp has been asked for and has not yet said
	// to their end; early counts those of them that it was asked for before link
	// was attached.
	owed, early map[wire.Family]int
}

// NewInner takes the addresses of both ends. Said is called by Run each time that
// gobgp has said the whole table of a family: once after Greet, and after each Refresh.
func NewInner(said func(wire.Family)) (*Inner, error) {
	// An address that nobody guesses before Seal.
	socket, own, err := bound(netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))}))
	if err != nil {
		return nil, fmt.Errorf("an address on loopback: %w", err)
	}
	// Another may take it before gobgp does, which then says so.
	other, server, err := bound(netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	if err != nil {
		socket.Close()
		return nil, fmt.Errorf("a port on loopback: %w", err)
	}
	other.Close()
	return &Inner{server: server, own: own, socket: socket, said: said, owed: map[wire.Family]int{}}, nil
}

// bound returns a socket that has an address, and a port that no other has there.
func bound(a netip.Addr) (*os.File, netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	f := os.NewFile(uintptr(fd), "loopback")
	err = unix.Bind(fd, &unix.SockaddrInet4{Addr: a.As4()})
	var name unix.Sockaddr
	if err == nil {
		name, err = unix.Getsockname(fd)
	}
	if err != nil {
		f.Close()
		return nil, netip.AddrPort{}, err
	}
	return f, addrPortOf(name), nil
}

// Server returns the address at which gobgp is to listen, and Addr that of the neighbor
// which it is to wait for.
func (in *Inner) Server() netip.AddrPort { return in.server }

// Addr returns the address from which gobgp is dialed.
func (in *Inner) Addr() netip.Addr { return in.own.Addr() }

// Seal has the kernel drop what comes to gobgp's listener from another socket than that
// of Dial, so that no other process on the node can speak to its parser. It must be
// called when gobgp listens, and before it knows its neighbor.
func (in *Inner) Seal() error {
	fd, err := listenerAt(in.server)
	if err != nil {
		return err
	}
	// A filter on a socket of MPTCP would not be one on its subflows.
	if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil {
		return fmt.Errorf("ask how gobgp listens: %w", err)
	} else if protocol != unix.IPPROTO_TCP {
		return fmt.Errorf("gobgp listens by protocol %d, not TCP", protocol)
	}
	source := in.own.Addr().As4()
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 2}, // the source port: a TCP socket's packets begin with their header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(in.own.Port()), SkipTrue: 3},
		bpf.LoadAbsolute{Off: 0xfff00000 + 12, Size: 4}, // SKF_NET_OFF: the source address of the IP header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(source[:]), SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return err
	}
	code := make([]unix.SockFilter, len(program))
	for i, p := range program {
		code[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}); err != nil {
		return fmt.Errorf("keep others on the node from gobgp: %w", err)
	}
	return nil
}

// listenerAt finds the socket of this process that listens at an address.
func listenerAt(a netip.AddrPort) (int, error) {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0, err
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if name, err := unix.Getsockname(fd); err != nil || addrPortOf(name) != a {
			continue
		}
		if listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err == nil && listens == 1 {
			return fd, nil
		}
	}
	return 0, fmt.Errorf("nobody here listens at %v", a)
}

// Dial connects to gobgp. It must be called after Seal, when gobgp waits for its
// neighbor.
func (in *Inner) Dial() error {
	defer in.socket.Close()
	raw, err := in.socket.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.Connect(int(fd), &unix.SockaddrInet4{Addr: in.server.Addr().As4(), Port: int(in.server.Port())})
	}); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("dial gobgp on loopback: %w", failed)
	}
	in.conn, err = net.FileConn(in.socket)
	return err
}

// Greet opens a session with gobgp as open says; gobgp then says its table, and listens
// no more. It must be called after Dial.
func (in *Inner) Greet(open wire.Open) error {
	if err := in.greet(open); err != nil {
		return fmt.Errorf("open the session with gobgp on loopback: %w", err)
	}
	return nil
}

func (in *Inner) greet(open wire.Open) error {
	if err := in.conn.SetDeadline(time.Now().Add(innerTimeout)); err != nil {
		return err
	}
	in.mu.Lock()
	for _, f := range open.Families {
		in.owed[f]++
	}
	in.mu.Unlock()
	if err := in.write(wire.AppendKeepalive(wire.AppendOpen(nil, open))); err != nil {
		return err
	}
	for _, want := range []wire.Type{wire.TypeOpen, wire.TypeKeepalive} {
		// Without a buffer: what follows is for Run.
		frame, err := readFrame(in.conn)
		if err != nil {
			return err
		}
		if got := wire.Type(frame[18]); got != want {
			return fmt.Errorf("%v instead of %v", got, want)
		}
	}
	fd, err := listenerAt(in.server)
	if err != nil {
		return err
	}
	// It has taken ours, and the port is for others again.
	if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil {
		return fmt.Errorf("end its listening: %w", err)
	}
	return in.conn.SetDeadline(time.Time{})
}

// Run relays until gobgp or Close ends the connection. It must be called after
// Dial.
func (in *Inner) Run() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
		in.Close()
	}()
	r := bufio.NewReaderSize(in.conn, 2*wire.MaxLen)
	for {
		frame, err := readFrame(r)
		if err != nil {
			return err
		}
		switch wire.Type(frame[18]) {
		case wire.TypeKeepalive:
			// The router on this side is always there.
			if err := in.write(frame); err != nil {
				return err
			}
		case wire.TypeUpdate:
			in.update(frame)
		case wire.TypeNotification:
			n, _ := wire.ParseNotification(frame[wire.HeaderLen:])
			return fmt.Errorf("gobgp says: %v", n)
		}
	}
}

// update passes an UPDATE on. An End-of-RIB belongs to the table that gobgp was
// asked for; that of one from before the link was attached is not for the router,
// which has not heard the beginning, and would take all it kept for stale.
func (in *Inner) update(frame []byte) {
	var end *wire.Family
	if len(frame) <= endOfRIB {
		end, _ = wire.ParseUpdate(frame[wire.HeaderLen:], func(wire.Change) {})
	}
	in.mu.Lock()
	link := in.link
	if end != nil {
		in.owed[*end]--
		if in.early[*end] > 0 {
			in.early[*end]--
			link = nil
		}
	}
	in.mu.Unlock()
	if link != nil {
		link.update(frame)
	}
	if end != nil {
		in.said(*end)
	}
}

// endOfRIB is the length of the longest End-of-RIB.
const endOfRIB = wire.HeaderLen + 11

// Attach sends what gobgp says from now on to a link, nil for nowhere.
func (in *Inner) Attach(link *Link) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.link, in.early = link, maps.Clone(in.owed)
}

// Refresh asks gobgp to say its whole table of a family again, which it ends
// with an End-of-RIB.
func (in *Inner) Refresh(f wire.Family) error {
	in.mu.Lock()
	in.owed[f]++
	in.mu.Unlock()
	return in.write(wire.AppendRouteRefresh(nil, f))
}

func (in *Inner) write(b []byte) error {
	in.writing.Lock()
	defer in.writing.Unlock()
	_, err := in.conn.Write(b)
	return err
}

// Close ends Greet and Run.
func (in *Inner) Close() {
	in.socket.Close()
	if in.conn != nil {
		in.conn.Close()
	}
}

// readFrame reads one message into memory of its own.
func readFrame(r io.Reader) ([]byte, error) {
	var h [wire.HeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, err
	}
	_, n, err := wire.ParseHeader(h)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, wire.HeaderLen+n)
	copy(frame, h[:])
	_, err = io.ReadFull(r, frame[wire.HeaderLen:])
	return frame, err
}

func addrPortOf(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	default:
		return netip.AddrPort{}
	}
}

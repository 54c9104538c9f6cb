package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp/wire"
)

// innerTimeout bounds what happens on loopback, between two parts of one
// process (docs/design/guard.md).
const innerTimeout = 20 * time.Second

// An Inner is the connection that a gobgp server holds with us in place of its
// router. It lives as long as that server; Links to the router come and go.
type Inner struct {
	listener *net.TCPListener
	// said is called when gobgp has said the whole table of a family.
	said func(wire.Family)
	// conn is set by Accept.
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

// Listen opens the address at which gobgp is to find its router. Said is called
// by Run each time that gobgp has said the whole table of a family: once after
// Greet, and after each Refresh.
func Listen(said func(wire.Family)) (*Inner, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen on loopback: %w", err)
	}
	return &Inner{listener: l.(*net.TCPListener), said: said, owed: map[wire.Family]int{}}, nil
}

// Addr returns the address of Listen.
func (in *Inner) Addr() netip.AddrPort {
	return in.listener.Addr().(*net.TCPAddr).AddrPort()
}

// Accept waits for gobgp. It takes a connection from this process only, and
// only one.
func (in *Inner) Accept(ctx context.Context) error {
	defer in.listener.Close()
	stop := context.AfterFunc(ctx, func() { _ = in.listener.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := in.listener.SetDeadline(time.Now().Add(innerTimeout)); err != nil {
		return err
	}
	for ctx.Err() == nil {
		conn, err := in.listener.Accept()
		if err != nil {
			return fmt.Errorf("wait for gobgp on loopback: %w", errors.Join(ctx.Err(), err))
		}
		if ours(conn.RemoteAddr().(*net.TCPAddr).AddrPort(), conn.LocalAddr().(*net.TCPAddr).AddrPort()) {
			in.conn = conn
			return nil
		}
		conn.Close()
	}
	return ctx.Err()
}

// Greet opens a session with gobgp as open says; gobgp then says its table. It
// must be called after Accept.
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
	return in.conn.SetDeadline(time.Time{})
}

// Run relays until gobgp or Close ends the connection. It must be called after
// Accept.
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

// Close ends Accept and Run.
func (in *Inner) Close() {
	in.listener.Close()
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

// ours reports whether a socket with these ends belongs to this process, so
// that no other on the node can speak to a router in our name.
func ours(local, remote netip.AddrPort) bool {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return false
	}
	for _, entry := range fds {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		name, err := unix.Getsockname(fd)
		if err != nil || addrPortOf(name) != local {
			continue
		}
		if peer, err := unix.Getpeername(fd); err == nil && addrPortOf(peer) == remote {
			return true
		}
	}
	return false
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

package guard

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

// innerTimeout bounds what happens on loopback, between two parts of one
// process (docs/design/guard.md).
const innerTimeout = 20 * time.Second

// A Backend is the connection that a gobgp server holds with us in place of its
// router. It lives as long as that server; Links to the router come and go.
//
// It is we who dial: gobgp waits for a second before it does. It listens for a moment,
// and heeds one neighbor: an address that nobody guesses, from which the kernel takes
// only what is signed with a key that nobody has (see Seal).
type Backend struct {
	// server is where gobgp is to listen, own whence it is dialed.
	server netip.AddrPort
	own    netip.Addr
	// key signs the connection, once it is set.
	key lb.Secret
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

// NewBackend chooses the addresses of both ends. Said is called by Run each time that
// gobgp has said the whole table of a family: once after Greet, and after each Refresh.
func NewBackend(said func(wire.Family)) (*Backend, error) {
	// Another may take the port before gobgp does, which then says so.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("a port on loopback: %w", err)
	}
	defer l.Close()
	own := [4]byte{127}
	for own[3] == 0 || own[3] == 255 || own[1] == 0 {
		if _, err := rand.Read(own[1:]); err != nil {
			return nil, err
		}
	}
	return &Backend{
		server: l.Addr().(*net.TCPAddr).AddrPort(), own: netip.AddrFrom4(own), said: said, owed: map[wire.Family]int{},
	}, nil
}

// Server returns the address at which gobgp is to listen.
func (in *Backend) Server() netip.AddrPort { return in.server }

// Addr returns the address of the only neighbor that gobgp is to heed: that from which
// Dial comes.
func (in *Backend) Addr() netip.Addr { return in.own }

// Seal has the kernel take nothing from the address of Dial that is not signed by us
// (RFC 2385), so that no other process on the node reaches gobgp's parser. It must be
// called when gobgp listens. An error means that the kernel cannot do that; the address
// is then a secret until gobgp has taken our connection, and no more than that.
func (in *Backend) Seal() error {
	fd, err := listenerAt(in.server)
	if err != nil {
		return err
	}
	key := lb.NewSecret(rand.Text())
	if err := setMD5(fd, in.own, key); err != nil {
		return fmt.Errorf("sign the connection with gobgp: %w", err)
	}
	in.key = key
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
	return 0, fmt.Errorf("no gobgp listens at %v", a)
}

// Dial connects to gobgp. It must be called when gobgp waits for its neighbor.
func (in *Backend) Dial(ctx context.Context) error {
	d := net.Dialer{Timeout: innerTimeout, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(in.own, 0))}
	d.SetMultipathTCP(false)
	if !in.key.Empty() {
		d.Control = func(_, _ string, c syscall.RawConn) error {
			var failed error
			err := c.Control(func(fd uintptr) { failed = setMD5(int(fd), in.server.Addr(), in.key) })
			return errors.Join(err, failed)
		}
	}
	var err error
	if in.conn, err = d.DialContext(ctx, "tcp4", in.server.String()); err != nil {
		return fmt.Errorf("dial gobgp on loopback: %w", err)
	}
	return nil
}

// Greet opens a session with gobgp as open says; gobgp then says its table, and listens
// no more. It must be called after Dial.
func (in *Backend) Greet(open wire.Open) error {
	if err := in.greet(open); err != nil {
		return fmt.Errorf("open the session with gobgp on loopback: %w", err)
	}
	return nil
}

func (in *Backend) greet(open wire.Open) error {
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
func (in *Backend) Run() (err error) {
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
func (in *Backend) update(frame []byte) {
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
func (in *Backend) Attach(link *Link) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.link, in.early = link, maps.Clone(in.owed)
}

// Refresh asks gobgp to say its whole table of a family again, which it ends
// with an End-of-RIB.
func (in *Backend) Refresh(f wire.Family) error {
	in.mu.Lock()
	in.owed[f]++
	in.mu.Unlock()
	return in.write(wire.AppendRouteRefresh(nil, f))
}

func (in *Backend) write(b []byte) error {
	in.writing.Lock()
	defer in.writing.Unlock()
	_, err := in.conn.Write(b)
	return err
}

// Close ends Greet and Run.
func (in *Backend) Close() {
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

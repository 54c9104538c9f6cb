package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp"
	"github.com/belfrylb/belfry/internal/bgp/wire"
	"github.com/belfrylb/belfry/internal/lb"
)

func TestTransportSuitsThePeer(t *testing.T) {
	for _, c := range []struct {
		name        string
		peer        lb.BGPPeer
		ttl, minTTL int
	}{
		{"external, next door", lb.BGPPeer{MyASN: 65000, PeerASN: 65001}, 1, 0},
		{"external by relation", lb.BGPPeer{MyASN: 65000, Kind: lb.PeerExternal}, 1, 0},
		{"internal, anywhere", lb.BGPPeer{MyASN: 65000, PeerASN: 65000}, 0, 0},
		{"internal by relation", lb.BGPPeer{MyASN: 65000, Kind: lb.PeerInternal}, 0, 0},
		{"external, far away", lb.BGPPeer{MyASN: 65000, PeerASN: 65001, EBGPMultiHop: true}, 255, 0},
		{"external, one hop and not more", lb.BGPPeer{MyASN: 65000, PeerASN: 65001, TTLSecurity: 1}, 255, 255},
		{"internal, three hops and not more", lb.BGPPeer{MyASN: 65000, PeerASN: 65000, TTLSecurity: 3}, 255, 253},
	} {
		for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
			got := TransportOf(c.peer, netip.MustParseAddr(a))
			if got.TTL != c.ttl || got.MinTTL != c.minTTL || got.Remote != netip.AddrPortFrom(netip.MustParseAddr(a), 179) {
				t.Errorf("%s: %+v", c.name, got)
			}
		}
	}
	p := lb.BGPPeer{Port: 1790, Source: netip.MustParseAddr("192.0.2.7"), VRF: "blue"}
	if got := TransportOf(p, netip.MustParseAddr("192.0.2.1")); got.Remote.Port() != 1790 || got.Source != p.Source || got.Device != "blue" {
		t.Errorf("%+v", got)
	}
}

func TestDialingFailsInWords(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	for _, c := range []struct {
		name  string
		t     Transport
		cause bgp.Cause
		text  string
	}{
		{"nobody there", Transport{Remote: gone}, bgp.ConnectionRefused, "connection refused by " + gone.String()},
		{"too long a password", Transport{Remote: gone, Password: lb.NewSecret(strings.Repeat("x", 81))}, bgp.PasswordMissing, "the password has 81 octets, TCP MD5 takes 80"},
		{"not our address", Transport{Remote: gone, Source: netip.MustParseAddr("203.0.113.1")}, bgp.SourceUnusable, "source address for " + gone.String() + ": cannot assign requested address"},
		{"no such device", Transport{Remote: gone, Device: "nosuch"}, bgp.SourceUnusable, "prepare the connection to " + gone.String() + ": bind to device nosuch: no such device"},
	} {
		_, err := Dial(t.Context(), c.t)
		var f *bgp.Fault
		if !errors.As(err, &f) || f.Cause != c.cause || f.Text != c.text {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var f *bgp.Fault
	if _, err := Dial(ctx, Transport{Remote: gone}); !errors.As(err, &f) || f.Cause != bgp.Leave {
		t.Errorf("canceled: %v", err)
	}
}

var gobgpOpen = wire.Open{AS: 65000, HoldTime: 3600, ID: netip.MustParseAddr("127.0.0.1"), Capabilities: wire.Capabilities{
	Families: []wire.Family{wire.IPv4Unicast, wire.IPv6Unicast}, FourOctetAS: true, RouteRefresh: true,
}}

// A gobgp plays the server's part on loopback.
type gobgp struct {
	t *testing.T
	net.Conn
}

func (g gobgp) send(b []byte) {
	g.t.Helper()
	if _, err := g.Write(b); err != nil {
		g.t.Fatal(err)
	}
}

// heard reads messages until one of this type comes.
func (g gobgp) heard(want wire.Type) []byte {
	g.t.Helper()
	_ = g.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		frame, err := readFrame(g.Conn)
		if err != nil {
			g.t.Fatalf("waiting for %v: %v", want, err)
		}
		if wire.Type(frame[18]) == want {
			return frame[wire.HeaderLen:]
		}
	}
}

// sealed returns a Backend, and the listener that gobgp would have.
func sealed(t *testing.T, said func(wire.Family)) (*Backend, net.Listener) {
	t.Helper()
	in, err := NewBackend(said)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.Close)
	l, err := net.Listen("tcp4", in.Server().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if err := in.Seal(); err != nil {
		t.Logf("this kernel does not sign: %v", err)
	}
	return in, l
}

// taken dials gobgp, and returns its end of the connection that it has taken: ours.
func taken(t *testing.T, in *Backend, l net.Listener) net.Conn {
	t.Helper()
	if err := in.Dial(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if got := conn.RemoteAddr().String(); got != in.conn.LocalAddr().String() {
		t.Errorf("it took %s, ours is %s", got, in.conn.LocalAddr())
	}
	return conn
}

// connect brings up a Backend and the gobgp at its other end.
func connect(t *testing.T, said func(wire.Family)) (*Backend, gobgp) {
	t.Helper()
	in, l := sealed(t, said)
	g := gobgp{t, taken(t, in, l)}
	g.send(wire.AppendKeepalive(wire.AppendOpen(nil, gobgpOpen)))
	if err := in.Greet(gobgpOpen); err != nil {
		t.Fatal(err)
	}
	g.heard(wire.TypeKeepalive)
	done := make(chan struct{})
	go func() { defer close(done); _ = in.Run() }()
	t.Cleanup(func() { in.Close(); <-done })
	return in, g
}

// dialed returns a Link that says nothing yet, and the router's end of it.
func dialed(t *testing.T) (*Link, gobgp) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	router, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { router.Close() })
	return NewLink(&Conn{TCPConn: conn.(*net.TCPConn)}, 0, &Counters{}, func() {}), gobgp{t, router}
}

// opening opens a session as gobgp would, and judges the router's OPEN.
func opening(judge func(wire.Open) (bgp.Negotiated, error)) Opening {
	return Opening{
		Open: gobgpOpen, Judge: judge, Doubt: func(*bgp.Fault) {},
		Silence: func(bgp.State, bgp.Trace) *bgp.Fault { return &bgp.Fault{Cause: bgp.Silent} },
	}
}

// linked returns a Link with a session, and the router's end of it.
func linked(t *testing.T, n bgp.Negotiated) (*Link, gobgp) {
	t.Helper()
	link, router := dialed(t)
	router.send(wire.AppendKeepalive(wire.AppendOpen(nil, gobgpOpen)))
	n.SendHoldTime = max(n.SendHoldTime, time.Second)
	if _, err := link.Open(t.Context(), opening(func(wire.Open) (bgp.Negotiated, error) { return n, nil })); err != nil {
		t.Fatal(err)
	}
	if err := link.Confirm(t.Context()); err != nil {
		t.Fatal(err)
	}
	router.heard(wire.TypeKeepalive)
	return link, router
}

// established returns a Link that runs, and the router's end of it.
func established(t *testing.T, n bgp.Negotiated) (*Link, gobgp) {
	t.Helper()
	link, router := linked(t, n)
	endings, done := make(chan Ending, 1), make(chan struct{})
	go func() { defer close(done); link.Run(endings) }()
	t.Cleanup(func() { endings <- Ending{Fault: &bgp.Fault{}}; <-done })
	return link, router
}

func update(i byte) []byte {
	body := []byte{
		0, 0, 0, 14, 0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4, 192, 0, 2, 1, // ORIGIN, AS_PATH, NEXT_HOP
		32, 198, 51, 100, i,
	}
	frame := wire.AppendEndOfRIB(nil, wire.IPv4Unicast)[:wire.HeaderLen]
	frame[17] = byte(wire.HeaderLen + len(body))
	return append(frame, body...)
}

// A router in graceful restart takes what it kept for stale at End-of-RIB. So it
// must not hear that of a table whose beginning it has not heard.
func TestEndOfATableFromBeforeIsNotPassedOn(t *testing.T) {
	said := make(chan wire.Family, 9)
	in, g := connect(t, func(f wire.Family) { said <- f })
	link, router := established(t, bgp.Negotiated{Families: []lb.Family{lb.IPv4, lb.IPv6}, EndOfRIB: true})

	// gobgp says its first table; the link comes in the middle of it.
	g.send(update(1))
	g.send(wire.AppendEndOfRIB(nil, wire.IPv6Unicast))
	if f := <-said; f != wire.IPv6Unicast {
		t.Fatalf("end of %v", f)
	}
	in.Attach(link)
	if err := in.Refresh(wire.IPv4Unicast); err != nil {
		t.Fatal(err)
	}
	g.heard(wire.TypeRouteRefresh)
	g.send(wire.AppendEndOfRIB(nil, wire.IPv4Unicast)) // of the first table
	g.send(update(2))
	g.send(wire.AppendEndOfRIB(nil, wire.IPv4Unicast)) // of the one asked for

	var heard []string
	for len(heard) < 2 {
		body := router.heard(wire.TypeUpdate)
		end, err := wire.ParseUpdate(body, func(c wire.Change) { heard = append(heard, c.Prefix.String()) })
		if err != nil {
			t.Fatal(err)
		}
		if end != nil {
			heard = append(heard, "end of "+end.String())
		}
	}
	if got := strings.Join(heard, ", "); got != "198.51.100.2/32, end of ipv4-unicast" {
		t.Errorf("the router heard %s", got)
	}
}

// What gobgp says badly goes nowhere, and is counted; the session goes on.
func TestWhatIsSaidBadlyIsCounted(t *testing.T) {
	link, router := established(t, bgp.Negotiated{Families: []lb.Family{lb.IPv4}, FourOctetAS: true})
	bad := update(1)
	bad[wire.HeaderLen+5] = 99 // in place of ORIGIN
	link.update(bad)
	waitFor(t, "a route that is not said", func() bool { return link.Unsaid(lb.IPv4) == 1 && link.Unsaid(lb.IPv6) == 0 })
	link.update(update(2))
	var heard []string
	if _, err := wire.ParseUpdate(router.heard(wire.TypeUpdate), func(c wire.Change) { heard = append(heard, c.Prefix.String()) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(heard, []string{"198.51.100.2/32"}) {
		t.Errorf("the router heard %v", heard)
	}
	link.update(update(1))
	router.heard(wire.TypeUpdate)
	waitFor(t, "the route is said", func() bool { return link.Unsaid(lb.IPv4) == 0 && link.Sent() == 2 })
}

func TestEndOfRIBIsForRoutersThatWantToKnow(t *testing.T) {
	in, g := connect(t, func(wire.Family) {})
	link, router := established(t, bgp.Negotiated{Families: []lb.Family{lb.IPv4}})
	g.send(wire.AppendEndOfRIB(wire.AppendEndOfRIB(nil, wire.IPv4Unicast), wire.IPv6Unicast))
	in.Attach(link)
	if err := in.Refresh(wire.IPv4Unicast); err != nil {
		t.Fatal(err)
	}
	g.heard(wire.TypeRouteRefresh)
	g.send(update(1))
	g.send(wire.AppendEndOfRIB(nil, wire.IPv4Unicast))
	g.send(update(2))
	for i := range 2 {
		end, _ := wire.ParseUpdate(router.heard(wire.TypeUpdate), func(c wire.Change) {
			if want := fmt.Sprintf("198.51.100.%d/32", i+1); c.Prefix.String() != want {
				t.Errorf("%v, want %s", c.Prefix, want)
			}
		})
		if end != nil {
			t.Error("the router hears an End-of-RIB that it did not ask for")
		}
	}
}

func TestGobgpsKeepalivesAreAnswered(t *testing.T) {
	_, g := connect(t, func(wire.Family) {})
	for range 3 {
		g.send(wire.AppendKeepalive(nil))
		g.heard(wire.TypeKeepalive)
	}
}

// From the address of the neighbor that gobgp heeds nothing reaches its listener but what
// is ours: not what is unsigned, nor what is signed with another key; before us or after.
// That needs no capability.
func TestNobodyElseSpeaksInOurName(t *testing.T) {
	if os.Geteuid() == 0 { // nobody else has any
		powers(t, 0)
	}
	in, l := sealed(t, func(wire.Family) {})
	if err := in.Seal(); errors.Is(err, unix.ENOPROTOOPT) {
		t.Skipf("SKIPPED, this kernel has no TCP MD5: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	// A SYN on loopback is answered, or dropped, before connect returns.
	reaches := func(in *Backend, from netip.Addr, key string) bool {
		t.Helper()
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if key != "" {
			if err := setMD5(fd, in.Server().Addr(), lb.NewSecret(key)); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: in.Server().Addr().As4(), Port: int(in.Server().Port())}); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			t.Fatal(err)
		}
		_, err = unix.Getpeername(fd)
		return err == nil
	}
	nobody := func() {
		t.Helper()
		for _, key := range []string{"", "another"} {
			if reaches(in, in.Addr(), key) {
				t.Errorf("with the key %q it is reached", key)
			}
		}
	}
	nobody()
	taken(t, in, l)
	nobody()
	// The same without a seal, and of two nodes: no two have one address or key.
	other, l := sealed(t, func(wire.Family) {})
	if other.Addr() == in.Addr() || other.key.Reveal() == in.key.Reveal() {
		t.Errorf("twice %v", in.Addr())
	}
	l.Close()
	bare, err := net.Listen("tcp4", other.Server().String())
	if err != nil {
		t.Fatal(err)
	}
	defer bare.Close()
	if !reaches(other, other.Addr(), "") {
		t.Error("what is not sealed is not reached, so this test shows nothing")
	}
}

// Where the kernel does not sign, the connection is made all the same; of MPTCP it is
// said that it cannot be.
func TestGobgpIsReachedWithoutASeal(t *testing.T) {
	in, err := NewBackend(func(wire.Family) {})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.Seal(); err == nil {
		t.Error("sealed, and nobody listens")
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	l, err := lc.Listen(t.Context(), "tcp4", in.Server().String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := listenerAt(in.Server())
	if err != nil {
		t.Fatal(err)
	}
	if p, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil && p != unix.IPPROTO_TCP {
		if err := in.Seal(); err == nil {
			t.Error("a listener of MPTCP is sealed")
		}
	}
	taken(t, in, l)
}

// Once gobgp is greeted it listens no more, and its port is for others.
func TestGobgpListensUntilItIsReached(t *testing.T) {
	in, g := connect(t, func(wire.Family) {})
	if fd, err := listenerAt(in.Server()); err == nil {
		t.Errorf("socket %d listens at %v", fd, in.Server())
	}
	l, err := net.Listen("tcp4", in.Server().String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other, err := net.Dial("tcp4", in.Server().String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	// And the session goes on.
	g.send(wire.AppendKeepalive(nil))
	g.heard(wire.TypeKeepalive)
}

// A router that goes may take BFD down with it. What it says counts then, and that it
// closes the connection does not; a router that says nothing delays the end by a moment.
func TestWordsThatHaveComeCountBeforeBFD(t *testing.T) {
	lost := func(cause bgp.Cause) Ending { return Ending{Fault: &bgp.Fault{Cause: cause, Text: "BFD down"}} }
	words := wire.AppendNotification(wire.AppendKeepalive(nil), wire.Cease(wire.CeaseShutdown, "see you at noon"))
	for _, c := range []struct {
		name   string
		cause  bgp.Cause
		says   []byte
		closes bool
		// want is what the session ends for at once; "" for not.
		want string
	}{
		{"says why", bgp.BFDDown, words, true, "the router says: cease: administrative shutdown: see you at noon"},
		{"closes", bgp.BFDDown, wire.AppendKeepalive(nil), true, "BFD down"},
		{"says nothing", bgp.BFDDown, nil, false, ""},
		{"of our own will", bgp.Leave, words, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			link, router := linked(t, bgp.Negotiated{Families: []lb.Family{lb.IPv4}})
			defer link.part(Ending{})
			defer router.Close()
			router.send(c.says)
			if c.closes {
				_ = router.Conn.(*net.TCPConn).CloseWrite()
			}
			if c.want != "" {
				link.reading = 10 * time.Second // however busy the machine is
			}
			e, got := link.heed(lost(c.cause)), ""
			if e.End != nil {
				got = e.End.Fault.Text
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	// And Run heeds it, whichever of the two it sees first.
	for range 10 {
		link, router := linked(t, bgp.Negotiated{Families: []lb.Family{lb.IPv4}})
		link.reading = 10 * time.Second
		router.send(words)
		go func() { // it goes when we do
			_, _ = io.Copy(io.Discard, router)
			router.Close()
		}()
		endings := make(chan Ending, 1)
		endings <- lost(bgp.BFDDown)
		if e := link.Run(endings); e.Fault.Cause != bgp.Notified {
			t.Fatalf("%v", e.Fault)
		}
	}
}

// A router that says why it goes and closes with something unread resets the
// connection. The writer may find out before the reader has come to the words.
func TestWordsBeforeAResetAreHeard(t *testing.T) {
	link, router := linked(t, bgp.Negotiated{Families: []lb.Family{lb.IPv4}})
	router.send(wire.AppendNotification(nil, wire.Cease(wire.CeaseReset, "")))
	_ = router.Conn.(*net.TCPConn).SetLinger(0)
	router.Close()
	waitFor(t, "the reset arrives", func() bool { return tcpState(t, link.conn.TCPConn) == tcpClose })
	link.update(update(1)) // there is something to write as soon as it runs
	if e := link.Run(nil); e.Fault.Cause != bgp.Notified || e.Fault.Text != "the router says: cease: administrative reset" {
		t.Errorf("it ended with %v: %s", e.Fault.Cause, e.Fault.Text)
	}
}

// So it is before the session is established.
func TestWordsBeforeAResetAreHeardWhileOpening(t *testing.T) {
	link, router := dialed(t)
	router.send(wire.AppendNotification(nil, wire.Cease(wire.CeaseRejected, "")))
	_ = router.Conn.(*net.TCPConn).SetLinger(0)
	router.Close()
	waitFor(t, "the reset arrives", func() bool { return tcpState(t, link.conn.TCPConn) == tcpClose })
	_, err := link.Open(t.Context(), opening(func(wire.Open) (bgp.Negotiated, error) { return bgp.Negotiated{}, nil }))
	var e *Ending
	if !errors.As(err, &e) || e.Fault.Cause != bgp.Notified || e.Fault.Text != "the router says: cease: connection rejected" {
		t.Errorf("it ended with %v", err)
	}
}

func TestLeavingWithoutAWordIsNoReset(t *testing.T) {
	link, router := linked(t, bgp.Negotiated{Families: []lb.Family{lb.IPv6}})
	endings, ended := make(chan Ending, 1), make(chan struct{})
	go func() { defer close(ended); link.Run(endings) }()
	for range 1000 {
		router.send(wire.AppendKeepalive(nil))
	}
	endings <- Ending{Fault: &bgp.Fault{Cause: bgp.Leave}}
	_ = router.SetReadDeadline(time.Now().Add(10 * time.Second))
	if b, err := io.ReadAll(router); err != nil || len(b) > 0 {
		t.Errorf("the router reads %d octets, and then %v", len(b), err)
	}
	router.Close()
	<-ended
}

// tcpClose is the state of a connection that is no more (TCP_CLOSE of Linux).
const tcpClose = 7

func tcpState(t *testing.T, conn *net.TCPConn) (state uint8) {
	t.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		state = info.State
	}); err != nil {
		t.Fatal(err)
	}
	return state
}

func waitFor(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !fact(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestBacklogIsBounded(t *testing.T) {
	q := queue{filled: make(chan struct{}, 1)}
	frame := make([]byte, wire.MaxLen)
	for range 2 * backlog / len(frame) {
		q.put(frame)
	}
	if held := len(q.frames) * len(frame); held > backlog+2*len(frame) {
		t.Errorf("%d octets are held", held)
	}
	if _, whole := q.take(nil, batch); whole {
		t.Error("a queue that has run over says that it is whole")
	}
	q = queue{filled: make(chan struct{}, 1)}
	for range 40 {
		q.put(frame)
	}
	n := 0
	for !q.empty() {
		frames, whole := q.take(nil, batch)
		if !whole || len(frames) == 0 || len(frames)*len(frame) > batch {
			t.Fatalf("%d frames, whole: %v", len(frames), whole)
		}
		n += len(frames)
	}
	if n != 40 || q.octets != 0 {
		t.Errorf("%d frames come out of 40, %d octets are left", n, q.octets)
	}
}

func TestReadingKeepsToItsPace(t *testing.T) {
	p := pace{since: time.Now()}
	done := make(chan struct{})
	start := time.Now()
	for range 1 << 20 / 4096 {
		p.spent(4096, done)
	}
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("1 MiB within %v", took)
	}
	close(done)
	start = time.Now()
	p.spent(1<<30, done)
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the end of the session waits %v for the pace", took)
	}
}

func TestAPanicEndsOneSession(t *testing.T) {
	link, router := dialed(t)
	router.send(wire.AppendOpen(nil, gobgpOpen))
	_, err := link.Open(t.Context(), opening(func(wire.Open) (bgp.Negotiated, error) { panic("boom") }))
	var e *Ending
	if !errors.As(err, &e) || e.Fault.Cause != bgp.InternalFault || e.Fault.Text != "panic: boom" || e.Notification == nil {
		t.Errorf("%v", err)
	}
	router.heard(wire.TypeNotification)
}

// A process that was stopped for longer than the hold time finds the timer expired and
// messages unread. It reads before it judges.
func TestWhatHasArrivedIsReadBeforeTheRouterIsCalledSilent(t *testing.T) {
	link, router := linked(t, bgp.Negotiated{Families: []lb.Family{lb.IPv4}, HoldTime: time.Hour, KeepaliveTime: time.Hour})
	link.start = link.start.Add(-2 * time.Hour) // the process was stopped for so long
	router.send(wire.AppendKeepalive(nil))
	endings, ended := make(chan Ending, 1), make(chan Ending, 1)
	go func() { ended <- link.Run(endings) }()
	waitFor(t, "the KEEPALIVE is read", func() bool { return link.counters.MessagesIn.Load() == 3 })
	endings <- Ending{Fault: &bgp.Fault{Cause: bgp.Leave}}
	if e := <-ended; e.Fault.Cause != bgp.Leave {
		t.Errorf("%v: %s", e.Fault.Cause, e.Fault.Text)
	}
}

// The send hold time of RFC 9687 is longer than the hold time: a router that reads
// nothing for a while, but is alive, is waited for.
func TestRouterThatReadsNothingIsLeft(t *testing.T) {
	link, router := linked(t, bgp.Negotiated{Families: []lb.Family{lb.IPv4}, SendHoldTime: 2 * time.Second})
	ended := make(chan Ending, 1)
	go func() { ended <- link.Run(nil) }()
	for range 4 << 20 / len(update(1)) {
		link.update(update(1))
	}
	start := time.Now()
	e := <-ended
	if e.Fault.Cause != bgp.SendTimeout || e.Fault.Text != "send hold timer expired: the router has read nothing for 2s" {
		t.Errorf("%v: %s", e.Fault.Cause, e.Fault.Text)
	}
	if took := time.Since(start); took < 2*time.Second {
		t.Errorf("left after %v", took)
	}
	router.Close()
}

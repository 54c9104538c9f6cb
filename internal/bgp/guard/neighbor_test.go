package guard

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/ownnet"
)

func TestMain(m *testing.M) { ownnet.Main(m) }

// A segment is the far end of a wire: it sends and reads frames.
type segment struct {
	t  *testing.T
	fd int
}

// laid lays a wire of which we have the interface near.
func laid(t *testing.T, near string) *segment {
	t.Helper()
	if os.Getenv(ownnet.Own) == "" {
		t.Skip("SKIPPED, it needs root, to make a network namespace")
	}
	far := near + "far"
	for _, args := range []string{
		"ip link add " + near + " type veth peer name " + far,
		"sysctl -qw net.ipv6.conf." + near + ".accept_dad=0 net.ipv6.conf." + near + ".accept_ra=0 net.ipv6.conf." + far + ".disable_ipv6=1",
		"ip link set " + near + " up",
		"ip link set " + far + " up",
	} {
		f := strings.Fields(args)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { _ = exec.Command("ip", "link", "delete", near).Run() })
	ifi, err := net.InterfaceByName(far)
	if err != nil {
		t.Fatal(err)
	}
	const protocol = unix.ETH_P_IPV6<<8&0xff00 | unix.ETH_P_IPV6>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, protocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: ifi.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 20}); err != nil {
		t.Fatal(err)
	}
	return &segment{t, fd}
}

// says sends a message of neighbor discovery to all on the wire.
func (s *segment) says(m ndp.Message, from string, hopLimit byte) {
	s.t.Helper()
	source, all := netip.MustParseAddr(from), netip.MustParseAddr("ff02::1")
	if _, ok := m.(*ndp.RouterSolicitation); ok {
		all = netip.MustParseAddr("ff02::2")
	}
	body, err := ndp.MarshalMessageChecksum(m, source, all)
	if err != nil {
		s.t.Fatal(err)
	}
	to := all.As16()
	frame := append([]byte{0x33, 0x33}, to[12:]...)
	frame = append(frame, 2, 0, 0, 0, 0, 9, 0x86, 0xdd, 0x60, 0, 0, 0)
	frame = append(binary.BigEndian.AppendUint16(frame, uint16(len(body))), unix.IPPROTO_ICMPV6, hopLimit)
	frame = append(append(append(frame, source.AsSlice()...), to[:]...), body...)
	if _, err := unix.Write(s.fd, frame); err != nil {
		s.t.Fatal(err)
	}
}

// shown waits until the node shows itself as a router, which must be as RFC 4861 wants it,
// and offer no route.
func (s *segment) shown() {
	s.t.Helper()
	b := make([]byte, 2048)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		n, from, err := unix.Recvfrom(s.fd, b, 0)
		if err != nil {
			s.t.Fatalf("no router advertisement: %v", err)
		}
		if l, ok := from.(*unix.SockaddrLinklayer); !ok || l.Pkttype == unix.PACKET_OUTGOING || n < 62 || b[20] != unix.IPPROTO_ICMPV6 || b[54] != 134 {
			continue
		}
		m, err := ndp.ParseMessage(bytes.Clone(b[54:n]))
		if err != nil {
			s.t.Fatal(err)
		}
		source := netip.AddrFrom16([16]byte(b[22:38]))
		if ra := m.(*ndp.RouterAdvertisement); ra.RouterLifetime != 0 || b[21] != 255 || !source.IsLinkLocalUnicast() {
			s.t.Errorf("hop limit %d from %v: %+v", b[21], source, ra)
		}
		return
	}
	s.t.Fatal("no router advertisement within 20 s")
}

// A router is found by what it says itself, on this very wire. One that is heard stays the
// router, whoever else shows itself.
func TestARouterIsFoundByItsAdvertisementsAlone(t *testing.T) {
	s := laid(t, "near0")
	found := make(chan netip.Addr, 9)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for {
			err := WatchNeighbor(ctx, "near0", func(a netip.Addr) { found <- a })
			// It has no address at first.
			if ctx.Err() != nil || !strings.Contains(fmt.Sprint(err), "listen for routers") {
				done <- err
				return
			}
		}
	}()
	router := &ndp.RouterAdvertisement{RouterLifetime: time.Hour}
	// heard waits until what was said has been read: a solicitation behind it is answered.
	heard := func() {
		t.Helper()
		s.says(&ndp.RouterSolicitation{}, "fe80::99", 255)
		s.shown()
	}
	s.shown()
	for _, c := range []struct {
		from     string
		hopLimit byte
		message  ndp.Message
	}{
		{"fe80::a", 64, router}, // from beyond the wire
		{"fe80::b", 254, router},
		{"2001:db8::c", 255, router},
		{"fe80::d", 255, &ndp.RouterSolicitation{}},
		{"fe80::e", 255, &ndp.NeighborAdvertisement{TargetAddress: netip.MustParseAddr("fe80::e")}},
	} {
		s.says(c.message, c.from, c.hopLimit)
	}
	if heard(); len(found) > 0 {
		t.Fatalf("%v is no router, and is found", <-found)
	}
	s.says(router, "fe80::2", 255)
	select {
	case a := <-found:
		if a.String() != "fe80::2%near0" {
			t.Errorf("found %v", a)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the router is not found within 20 s")
	}
	s.says(router, "fe80::3", 255)
	s.says(router, "fe80::2", 255)
	if heard(); len(found) > 0 {
		t.Errorf("the router is another: %v", <-found)
	}
	cancel()
	if err := <-done; err != context.Canceled {
		t.Error(err)
	}
}

// With privacy extensions the kernel would dial from an address that is another tomorrow.
func TestSessionsAreDialedFromAnAddressThatLasts(t *testing.T) {
	laid(t, "near1")
	const lasting = "2001:db8::5"
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/near1/use_tempaddr", []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "address", "add", lasting+"/64", "dev", "near1", "mngtmpaddr", "valid_lft", "9000", "preferred_lft", "8000").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	to := Transport{Remote: netip.MustParseAddrPort("[2001:db8::1]:179")}
	kernels := func() netip.Addr {
		conn, err := net.Dial("udp", to.Remote.String())
		if err != nil {
			return netip.Addr{}
		}
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	}
	waitFor(t, "the kernel prefers a temporary address", func() bool {
		a := kernels()
		return a.IsValid() && a.IsGlobalUnicast() && a != netip.MustParseAddr(lasting)
	})
	if got := to.Predict(); got.String() != lasting {
		t.Errorf("a connection from %v is predicted", got)
	}
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := to.setOptions(fd); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet6{Addr: to.Remote.Addr().As16(), Port: 179}); err != unix.EINPROGRESS {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if got := addrPortOf(name).Addr(); got.String() != lasting {
		t.Errorf("the connection is from %v", got)
	}
	to.MinTTL = 255
	w, err := newWitness(to)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if got := w.conn.LocalAddr().String(); got != lasting {
		t.Errorf("what comes to %v is watched", got)
	}
}

package guard

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/bgp"
)

// routerWithTTL listens on loopback, and what it sends has this TTL.
func routerWithTTL(t *testing.T, address string, ttl int) *net.TCPListener {
	t.Helper()
	lc := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error {
		level, option := unix.IPPROTO_IP, unix.IP_TTL
		if network == "tcp6" {
			level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
		}
		var err error
		if gone := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, ttl) }); gone != nil {
			return gone
		}
		return err
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// powers leaves this thread, which ends with the test, these capabilities and no other.
func powers(t *testing.T, capabilities uint32) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, it needs root")
	}
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	sets := [2]unix.CapUserData{{Effective: capabilities, Permitted: capabilities}}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		t.Fatal(err)
	}
}

// NET_RAW is all that a speaker has.
func TestTTLThatTheKernelDoesNotLetInIsTold(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(address, func(t *testing.T) {
			t.Parallel()
			powers(t, 1<<unix.CAP_NET_RAW)
			far, near := routerWithTTL(t, address, 64), routerWithTTL(t, address, 255)
			to := far.Addr().(*net.TCPAddr).AddrPort()

			// Its answer to the SYN.
			_, err := Dial(t.Context(), Transport{Remote: to, TTL: 255, MinTTL: 255})
			var f *bgp.Fault
			if !errors.As(err, &f) || f.Cause != bgp.TTLTooLow || f.Text != bgp.TooFar(64, 255).Text {
				t.Errorf("the answer arrives with TTL 64: %v", err)
			}

			// What it says later.
			conn, err := Dial(t.Context(), Transport{Remote: near.Addr().(*net.TCPAddr).AddrPort(), TTL: 255, MinTTL: 254})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			router, err := near.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			defer router.Close()
			if ttl := conn.trace().TTL; ttl != 0 {
				t.Errorf("TTL %d of a router that sends with 255", ttl)
			}
			raw, err := router.SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := raw.Control(func(fd uintptr) {
				if to.Addr().Is4() {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TTL, 253)
				} else {
					err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 253)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if _, err := router.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the segment that the kernel drops", func() bool { return conn.trace().TTL == 253 })
		})
	}
}

func TestWithoutNetRawThereAreFewerWords(t *testing.T) {
	t.Parallel()
	powers(t, 0)
	near := routerWithTTL(t, "[::1]:0", 255)
	conn, err := Dial(t.Context(), Transport{Remote: near.Addr().(*net.TCPAddr).AddrPort(), Source: netip.IPv6Loopback(), TTL: 255, MinTTL: 255})
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.trace(); got != (bgp.Trace{}) || conn.distant != nil {
		t.Errorf("%+v", got)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	far := routerWithTTL(t, "127.0.0.1:0", 64)
	var f *bgp.Fault
	if _, err := Dial(t.Context(), Transport{Remote: far.Addr().(*net.TCPAddr).AddrPort(), TTL: 255, MinTTL: 255}); !errors.As(err, &f) || f.Cause != bgp.Unanswered {
		t.Error(err)
	}
}

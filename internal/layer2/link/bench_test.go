package link

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// BenchmarkAnswer asks one question after the other across a cable, and reports
// the median and the 99th percentile of the time to the answer of
//
//   - the kernel's own responder, which answers before the asker's write returns;
//   - the least that any program can do: a thread blocked in read(2) that writes
//     the same answer to whatever comes;
//   - a Link with a thousand addresses;
//   - one that has no threads of its own to wait by.
//
// The asker is a thread that blocks in the kernel, the same for all.
func BenchmarkAnswer(b *testing.B) {
	n := newLAN(b)
	l, _ := n.node.runLink(Options{Rate: 100})
	index, peerIndex, us, them := n.node.index("eth0"), n.peer.index("eth0"), n.node.mac("eth0"), n.peer.mac("eth0")
	some := thousands(500, index)
	l.Set(append(some, layer2.Claim{Address: vip4, Interfaces: []int{index}}, layer2.Claim{Address: vip6, Interfaces: []int{index}}))
	threadless, _ := n.node.runLink(Options{Rate: 100}, func(l *Link) {
		l.openSocket = func(ifindex, etherType int, _ wait, filter []bpf.Instruction) (*socket, error) {
			return openSocket(ifindex, etherType, byRuntime, filter)
		}
	})
	other4, other6 := vip4.Next(), vip6.Next()
	threadless.Set([]layer2.Claim{{Address: other4, Interfaces: []int{index}}, {Address: other6, Interfaces: []int{index}}})
	asker6, least4, least6 := netip.MustParseAddr("2001:db8::2"), other4.Next(), other6.Next()
	n.node.least(b, etherARP, filterARP(scope{claimed: []lb.AddressRange{{First: least4, Last: least4}}}), marshalARP(2, them, us, least4, them, peer4))
	n.node.least(b, etherIPv6, filterNDP(scope{claimed: []lb.AddressRange{{First: least6, Last: least6}}}), advertisement(them, us, least6, asker6, true))
	for _, c := range []struct {
		name      string
		etherType uint16
		question  []byte
	}{
		{"ARP/kernel", etherARP, requestARP(broadcast, them, peer4, netip.MustParseAddr("192.0.2.1"))},
		{"ARP/least", etherARP, requestARP(broadcast, them, peer4, least4)},
		{"ARP/link", etherARP, requestARP(broadcast, them, peer4, vip4)},
		{"ARP/threadless", etherARP, requestARP(broadcast, them, peer4, other4)},
		{"NDP/kernel", etherIPv6, solicitation(lb.MAC{}, them, asker6, netip.MustParseAddr("2001:db8::1"))},
		{"NDP/least", etherIPv6, solicitation(lb.MAC{}, them, asker6, least6)},
		{"NDP/link", etherIPv6, solicitation(lb.MAC{}, them, asker6, vip6)},
		{"NDP/threadless", etherIPv6, solicitation(lb.MAC{}, them, asker6, other6)},
	} {
		b.Run(c.name, func(b *testing.B) {
			n.peer.do(func() error {
				fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
					return err
				}
				if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: c.etherType<<8 | c.etherType>>8, Ifindex: peerIndex}); err != nil {
					return err
				}
				took := make([]time.Duration, 0, b.N)
				buffer := make([]byte, 2048)
				for b.Loop() {
					start := time.Now()
					if _, err := unix.Write(fd, c.question); err != nil {
						return err
					}
					for {
						got, err := unix.Read(fd, buffer)
						if err != nil {
							return err
						}
						if isAnswer(buffer[:got]) {
							break
						}
					}
					took = append(took, time.Since(start))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "median-ns")
				b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
				return nil
			})
		})
	}
}

// least answers whatever the filter lets in with one frame, until the benchmark
// ends.
func (h host) least(b *testing.B, etherType int, filter []bpf.Instruction, answer []byte) {
	index := h.index("eth0")
	program, err := bpf.Assemble(filter)
	if err != nil {
		b.Fatal(err)
	}
	fd := -1
	h.do(func() error {
		conn, err := packet.Listen(&net.Interface{Index: index}, packet.Raw, etherType, &packet.Config{Filter: program})
		if err != nil {
			return err
		}
		defer conn.Close()
		file, err := detach(conn)
		if err != nil {
			return err
		}
		defer file.Close()
		if fd, err = unix.Dup(int(file.Fd())); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000}); err != nil {
			return err
		}
		return unix.SetNonblock(fd, false)
	})
	var ends atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer unix.Close(fd)
		buffer := make([]byte, 2048)
		for !ends.Load() {
			if _, err := unix.Read(fd, buffer); err == nil {
				_, _ = unix.Write(fd, answer)
			}
		}
	}()
	b.Cleanup(func() {
		ends.Store(true)
		<-ended
	})
}

// isAnswer reports whether a frame is an ARP reply to somebody else's question
// or a solicited advertisement, by as few looks as possible.
func isAnswer(frame []byte) bool {
	switch {
	case len(frame) < etherLen+28:
		return false
	case frame[12] == 0x08:
		return frame[etherLen+7] == 2 && !slices.Equal(frame[etherLen+14:etherLen+18], frame[etherLen+24:etherLen+28])
	default:
		return len(frame) >= etherLen+ipv6Len+5 && frame[etherLen+ipv6Len] == typeAdvertising && frame[etherLen+ipv6Len+4]&0x40 != 0
	}
}

// BenchmarkReceive is what a question costs between the two system calls.
func BenchmarkReceive(b *testing.B) {
	us, them := lb.MAC{2, 0, 0, 0, 0, 1}, lb.MAC{2, 0, 0, 0, 0, 2}
	table := layer2.NewTable(thousands(5000, 7))
	station := layer2.NewStation([]lb.Interface{{Index: 7, MAC: us, Up: true, Carrier: true}})
	for name, a := range map[string]string{"ARP/hit": "10.1.9.9", "ARP/miss": "10.9.9.9", "NDP/hit": "2001:db8:1::909", "NDP/miss": "2001:db8:9::909"} {
		target := netip.MustParseAddr(a)
		receive, frame := receiveARP, []byte(nil)
		if target.Is4() {
			frame = requestARP(broadcast, them, peer4, target)
		} else {
			receive, frame = receiveNDP, solicitation(lb.MAC{}, them, peer6, target)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				receive(table, station, 7, frame)
			}
		})
	}
}

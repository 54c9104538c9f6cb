package link

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/belfrylb/belfry/internal/layer2"
	"github.com/belfrylb/belfry/internal/lb"
)

// BenchmarkAnswer asks one question after the other across a cable, of the
// kernel's own responder and of a Link with a thousand addresses, and reports
// the median and the 99th percentile of the time to the answer. The asker is a
// thread that blocks in the kernel, the same for both.
func BenchmarkAnswer(b *testing.B) {
	n := newLAN(b)
	l, _ := n.node.runLink(Options{Rate: 100})
	index, peerIndex, them := n.node.index("eth0"), n.peer.index("eth0"), n.peer.mac("eth0")
	some := thousands(500, index)
	l.Set(append(some, layer2.Claim{Address: vip4, Interfaces: []int{index}}, layer2.Claim{Address: vip6, Interfaces: []int{index}}))
	asker6 := netip.MustParseAddr("2001:db8::2")
	for _, c := range []struct {
		name      string
		etherType uint16
		question  []byte
	}{
		{"ARP/kernel", etherARP, requestARP(broadcast, them, peer4, netip.MustParseAddr("192.0.2.1"))},
		{"ARP/link", etherARP, requestARP(broadcast, them, peer4, vip4)},
		{"NDP/kernel", etherIPv6, solicitation(lb.MAC{}, them, asker6, netip.MustParseAddr("2001:db8::1"))},
		{"NDP/link", etherIPv6, solicitation(lb.MAC{}, them, asker6, vip6)},
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

package layer2

import (
	"net/netip"
	"time"

	"github.com/belfrylb/belfry/internal/lb"
)

// A HeardKind says by what kind of frame a foreign station uses an address.
type HeardKind uint8

// Kinds of frames that use an address.
const (
	// HeardRequest is an ARP request or Neighbor Solicitation sent from the
	// address.
	HeardRequest HeardKind = iota
	// HeardReply is an ARP reply or a solicited advertisement.
	HeardReply
	// HeardAnnouncement is a gratuitous ARP or an unsolicited advertisement.
	HeardAnnouncement
	// HeardProbe is an RFC 5227 probe or a duplicate address detection: the
	// sender does not use the address yet but means to.
	HeardProbe
)

// HeardKinds are all kinds, for metrics.
var HeardKinds = [...]HeardKind{HeardRequest, HeardReply, HeardAnnouncement, HeardProbe}

var heardKindNames = [...]string{"request", "reply", "announcement", "probe"}

// String returns the kind's name, as metrics show it.
func (k HeardKind) String() string { return heardKindNames[k] }

// Claims reports whether a frame of the kind says that its sender has the
// address, rather than that it would like to.
func (k HeardKind) Claims() bool { return k != HeardProbe }

// Heard is another station's use of an address that we watch.
type Heard struct {
	At        time.Time
	Address   netip.Addr
	MAC       lb.MAC
	Interface int
	Kind      HeardKind
}

// Watched reports whether an address lies in one of the ranges, which are
// sorted and disjoint.
func Watched(ranges []lb.AddressRange, a netip.Addr) bool {
	low, high := 0, len(ranges)
	for low < high {
		mid := (low + high) / 2
		if ranges[mid].Last.Compare(a) < 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return low < len(ranges) && ranges[low].Contains(a)
}

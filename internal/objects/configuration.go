package objects

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/internal/config"
	"github.com/belfrylb/belfry/internal/lb"
)

// Configure compiles the objects that configure us into a snapshot. Its Services and
// Nodes stay.
func Configure(s *lb.Snapshot, o config.Objects) config.Config {
	c := config.Compile(o)
	s.Pools, s.L2Advertisements = c.Pools, c.L2Advertisements
	s.BGPPeers, s.BGPAdvertisements = c.BGPPeers, c.BGPAdvertisements
	s.Configuration = configuration(o, c)
	return c
}

// configuration tells which configuration there is. Labels count by what they select.
func configuration(o config.Objects, c config.Config) string {
	h := sha256.New()
	versions(h, o.Pools)
	versions(h, o.L2Advertisements)
	versions(h, o.BGP.Peers)
	versions(h, o.BGP.Advertisements)
	versions(h, o.BGP.Communities)
	versions(h, o.BGP.BFDProfiles)
	for _, ad := range c.L2Advertisements {
		selection(h, ad.Name, ad.PoolSelectors, c.Pools)
	}
	for _, ad := range c.BGPAdvertisements {
		selection(h, ad.Name, ad.PoolSelectors, c.Pools)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// A digester takes what a digest is made of.
type digester interface{ Write(p []byte) (int, error) }

func versions[T metav1.Object](h digester, all []T) {
	for _, o := range slices.SortedFunc(slices.Values(all), func(a, b T) int { return cmp.Compare(a.GetName(), b.GetName()) }) {
		fmt.Fprintf(h, "%T %s %s %d %t\n", o, o.GetName(), o.GetUID(), o.GetGeneration(), o.GetDeletionTimestamp() != nil)
	}
}

// selection adds which pools an advertisement selects by their labels.
func selection(h digester, name string, selectors []lb.Selector, pools []lb.Pool) {
	if len(selectors) == 0 {
		return
	}
	fmt.Fprintf(h, "%s selects", name)
	for _, p := range pools {
		if lb.MatchesAny(selectors, p.Labels) {
			fmt.Fprintf(h, " %s", p.Name)
		}
	}
	fmt.Fprintln(h)
}

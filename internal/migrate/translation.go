package migrate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/lb"
)

// A Note is a difference between what was and what will be.
type Note struct {
	// Object is the other's: BGPPeer/tor1. Field is a path in it.
	Object string `json:"object"`
	Field  string `json:"field,omitempty"`
	Text   string `json:"text"`
}

// A Secret is one that has to be made in Belfry's namespace for a router's password.
type Secret struct {
	Name, Peer string
	// From is the other's Secret, in Namespace. Empty: the password stands in the other's
	// BGPPeer, or, if that is set, in its ConfigMap.
	From, Namespace string
	ConfigMap       bool
}

// A Translation is what configures Belfry as the other is configured.
type Translation struct {
	Pools             []*v1beta1.IPAddressPool
	L2Advertisements  []*v1beta1.L2Advertisement
	BGPPeers          []*v1beta1.BGPPeer
	BGPAdvertisements []*v1beta1.BGPAdvertisement
	Communities       []*v1beta1.Community
	BFDProfiles       []*v1beta1.BFDProfile
	// Notes are in the order of the objects, and of the fields in each.
	Notes   []Note
	Secrets []Secret
	// Services are what Services are to be annotated with.
	Services []Annotated
	// Announcers are the nodes that announce the addresses of Services by layer 2, as far
	// as the other tells.
	Announcers map[lb.ServiceKey][]string

	labels map[string]map[string]string
	cilium *ciliumBGP
}

// An Annotated is a Service with the annotation of ours that says what one of the other's
// says.
type Annotated struct {
	Service    lb.ServiceKey
	Key, Value string
}

// A Source is a load balancer to come from.
type Source struct {
	// Name is what commands call it, Title what people do.
	Name, Title string
	// Groups are those of its API.
	Groups []string
	// Namespace is where it is installed unless somebody chose otherwise, ConfigMap the name
	// of what it reads there. Empty: its objects are in no namespace; it reads none.
	Namespace, ConfigMap string
	// order are the kinds that are translated, in the order in which they are listed, and
	// told those by which it tells what it does.
	order, told []string
	// shared is set when its groups have kinds of another purpose.
	shared bool
	kinds  map[string]func(t *Translation, m Metadata, f *fields)
	// tells reads an object of a kind that is told.
	tells func(t *Translation, o Object)
	// configMap reads its ConfigMap; finish joins what several objects say.
	configMap func(t *Translation, c ConfigMap)
	finish    func(t *Translation)
	// annotations are what its annotations of Services are here.
	annotations map[string]string
}

// Sources are all of them.
var Sources = []Source{metalLB, cilium, kubeVIP, pureLB}

// Find returns the Source of a name.
func Find(name string) (Source, bool) {
	i := slices.IndexFunc(Sources, func(s Source) bool { return s.Name == name })
	if i < 0 {
		return Source{}, false
	}
	return Sources[i], true
}

// Reads reports whether objects of a kind, in a group of the Source, say anything here.
func (s Source) Reads(kind string) bool {
	return !s.shared || slices.Contains(s.order, kind) || slices.Contains(s.told, kind)
}

// Of reports whether an API group is one of the Source's.
func (s Source) Of(apiVersion string) bool {
	group, _, _ := strings.Cut(apiVersion, "/")
	return slices.Contains(s.Groups, group)
}

// An Origin is what there is of another load balancer. It reads one namespace alone, and so
// only what is there counts.
type Origin struct {
	Namespace  string
	Objects    []Object
	ConfigMaps []ConfigMap
	Services   []Metadata
}

// A ConfigMap has its values as JSON.
type ConfigMap struct {
	Namespace, Name string
	Data            map[string]json.RawMessage
}

// Empty reports whether nothing of the Source is there.
func (s Source) Empty(o Origin) bool {
	return !slices.ContainsFunc(o.Objects, func(is Object) bool { return s.Namespace == "" || is.Metadata.Namespace == o.Namespace }) &&
		!slices.ContainsFunc(o.ConfigMaps, func(c ConfigMap) bool { return c.Namespace == o.Namespace && c.Name == s.ConfigMap })
}

// Translate writes our objects from the other's, of every version that it had. The order in
// which they are given does not matter.
func (s Source) Translate(o Origin) *Translation {
	t := &Translation{Announcers: map[lb.ServiceKey][]string{}, labels: map[string]map[string]string{}}
	rank := func(kind string) int {
		if i := slices.Index(s.order, kind); i >= 0 {
			return i
		}
		return len(s.order)
	}
	objects := newest(o.Objects)
	slices.SortStableFunc(objects, func(a, b Object) int {
		return cmp.Or(cmp.Compare(rank(a.Kind), rank(b.Kind)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Metadata.Name, b.Metadata.Name), cmp.Compare(a.Metadata.Namespace, b.Metadata.Namespace))
	})
	for _, is := range objects {
		f := &fields{object: is.Kind + "/" + is.Metadata.Name, of: map[string]any{}, t: t}
		translate := s.kinds[is.Kind]
		switch {
		case slices.Contains(s.told, is.Kind):
			if s.tells != nil {
				s.tells(t, is)
			}
		case !s.Reads(is.Kind) || !s.Of(is.APIVersion):
		case translate == nil || !strings.HasPrefix(is.APIVersion, s.Groups[0]+"/"):
			f.note("", "this kind has no equal here, and is left out")
		case s.Namespace != "" && is.Metadata.Namespace != o.Namespace:
			f.note("", fmt.Sprintf("it is in namespace %s, and %s reads its own alone, which is %s: it is left out", is.Metadata.Namespace, s.Title, o.Namespace))
		default:
			if f.path = "spec"; f.read(is.Spec) {
				translate(t, is.Metadata, f)
				f.rest()
			}
		}
	}
	for _, c := range o.ConfigMaps {
		if c.Namespace == o.Namespace && c.Name == s.ConfigMap {
			s.configMap(t, c)
		}
	}
	if s.finish != nil {
		s.finish(t)
	}
	t.label()
	t.annotate(o.Services, s.annotations)
	return t
}

// annotate says what Services have to be annotated with.
func (t *Translation) annotate(services []Metadata, annotations map[string]string) {
	for _, m := range services {
		for _, key := range slices.Sorted(maps.Keys(m.Annotations)) {
			if ours := annotations[key]; ours != "" && m.Annotations[ours] == "" && m.Annotations[key] != "" {
				t.Services = append(t.Services, Annotated{lb.ServiceKey{Namespace: m.Namespace, Name: m.Name}, ours, m.Annotations[key]})
			}
		}
	}
	slices.SortFunc(t.Services, func(a, b Annotated) int { return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Key, b.Key)) })
}

// An Object is one of the API, as JSON.
type Object struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   Metadata        `json:"metadata"`
	Spec       json.RawMessage `json:"spec"`
	Status     json.RawMessage `json:"status"`
}

// A Metadata is what counts of an object's metadata.
type Metadata struct {
	Name      string            `json:"name"`
	Namespace string            `json:"namespace"`
	Labels    map[string]string `json:"labels"`
	// Annotations are those of a Service.
	Annotations map[string]string `json:"annotations"`
}

// newest leaves one object of those that are listed in several versions.
func newest(objects []Object) []Object {
	best := map[[3]string]Object{}
	for _, o := range objects {
		key := [3]string{o.Kind, o.Metadata.Namespace, o.Metadata.Name}
		if is, there := best[key]; !there || is.APIVersion < o.APIVersion {
			best[key] = o
		}
	}
	return slices.Collect(maps.Values(best))
}

// read reads a part of an object.
func (f *fields) read(body json.RawMessage) bool {
	if len(body) == 0 {
		return true
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&f.of); err != nil {
		f.note("", "it cannot be read ("+err.Error()+"): the object is left out")
		return false
	}
	return true
}

// meta is what an object of ours has of one of the other's. Labels come later, as far as
// they are selected by.
func (t *Translation) meta(kind string, m Metadata) (metav1.TypeMeta, metav1.ObjectMeta) {
	if kind == "IPAddressPool" {
		t.labels[m.Name] = m.Labels
	}
	return metav1.TypeMeta{APIVersion: v1beta1.SchemeGroupVersion.String(), Kind: kind}, metav1.ObjectMeta{Name: m.Name}
}

// label gives pools the labels that something selects them by.
func (t *Translation) label() {
	keys := map[string]bool{}
	by := func(selectors []v1beta1.LabelSelector) {
		for _, s := range selectors {
			for key := range s.MatchLabels {
				keys[key] = true
			}
			for _, e := range s.MatchExpressions {
				keys[string(e.Key)] = true
			}
		}
	}
	for _, a := range t.L2Advertisements {
		by(a.Spec.IPAddressPoolSelectors)
	}
	for _, a := range t.BGPAdvertisements {
		by(a.Spec.IPAddressPoolSelectors)
	}
	for _, p := range t.Pools {
		for key, v := range t.labels[p.Name] {
			if !keys[key] {
				continue
			}
			if p.Labels == nil {
				p.Labels = map[string]string{}
			}
			p.Labels[key] = v
		}
	}
}

package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/internal/migrate"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/world"
)

// A kind is one that is read.
type kind struct {
	schema.GroupVersionKind
	resource string
	// only names the one object, in the namespace of the installation, that is read;
	// empty for all. Need is set when nothing can be said without the kind.
	only string
	need bool
	shelf
}

// A shelf is where a store has the objects of one kind.
type shelf struct {
	// put enters an object from its JSON. What is read later replaces an object of the
	// same name.
	put func(s *store, body []byte) error
	// drop takes out an object by its JSON, and clear all of them.
	drop  func(s *store, body []byte) error
	clear func(s *store)
	all   func(s *store) []metav1.Object
}

func shelfOf[T any, PT interface {
	*T
	metav1.Object
}](list func(*store) *[]*T) shelf {
	key := func(o PT) string { return fmt.Sprintf("%T %s/%s", o, o.GetNamespace(), o.GetName()) }
	return shelf{
		put: func(s *store, body []byte) error {
			o := PT(new(T))
			if err := json.Unmarshal(body, o); err != nil {
				return err
			}
			all := list(s)
			if i, known := s.at[key(o)]; known {
				(*all)[i] = o
				return nil
			}
			if s.at == nil {
				s.at = map[string]int{}
			}
			s.at[key(o)] = len(*all)
			*all = append(*all, o)
			return nil
		},
		drop: func(s *store, body []byte) error {
			o := PT(new(T))
			if err := json.Unmarshal(body, o); err != nil {
				return err
			}
			i, known := s.at[key(o)]
			if !known {
				return nil
			}
			all := list(s)
			last := len(*all) - 1
			s.at[key((*all)[last])] = i
			(*all)[i], (*all)[last] = (*all)[last], nil
			*all = (*all)[:last]
			delete(s.at, key(o))
			return nil
		},
		clear: func(s *store) {
			for _, o := range *list(s) {
				delete(s.at, key(o))
			}
			*list(s) = nil
		},
		all: func(s *store) (all []metav1.Object) {
			for _, o := range *list(s) {
				all = append(all, PT(o))
			}
			return all
		},
	}
}

// A network is a ServiceCIDR as far as it is read.
type network struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		CIDRs []string `json:"cidrs"`
	} `json:"spec"`
}

var (
	core   = corev1.SchemeGroupVersion
	belfry = v1beta1.SchemeGroupVersion
)

// lease is the name of the controller's.
const lease = "belfry-controller"

// kinds are all that are read.
var kinds = []kind{
	{core.WithKind("Service"), "services", "", true, shelfOf(func(s *store) *[]*corev1.Service { return &s.objects.Services })},
	{core.WithKind("Node"), "nodes", "", true, shelfOf(func(s *store) *[]*corev1.Node { return &s.objects.Nodes })},
	{core.WithKind("Namespace"), "namespaces", "", false, shelfOf(func(s *store) *[]*corev1.Namespace { return &s.objects.Namespaces })},
	{discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"), "endpointslices", "", true, shelfOf(func(s *store) *[]*discoveryv1.EndpointSlice { return &s.objects.Slices })},
	{schema.GroupVersionKind{Group: "networking.k8s.io", Version: "v1", Kind: "ServiceCIDR"}, "servicecidrs", "", false, shelfOf(func(s *store) *[]*network { return &s.networks })},
	{belfry.WithKind("IPAddressPool"), "ipaddresspools", "", true, shelfOf(func(s *store) *[]*v1beta1.IPAddressPool { return &s.objects.Pools })},
	{belfry.WithKind("L2Advertisement"), "l2advertisements", "", true, shelfOf(func(s *store) *[]*v1beta1.L2Advertisement { return &s.objects.L2Advertisements })},
	{belfry.WithKind("BGPPeer"), "bgppeers", "", true, shelfOf(func(s *store) *[]*v1beta1.BGPPeer { return &s.objects.BGPPeers })},
	{belfry.WithKind("BGPAdvertisement"), "bgpadvertisements", "", true, shelfOf(func(s *store) *[]*v1beta1.BGPAdvertisement { return &s.objects.BGPAdvertisements })},
	{belfry.WithKind("Community"), "communities", "", true, shelfOf(func(s *store) *[]*v1beta1.Community { return &s.objects.Communities })},
	{belfry.WithKind("BFDProfile"), "bfdprofiles", "", true, shelfOf(func(s *store) *[]*v1beta1.BFDProfile { return &s.objects.BFDProfiles })},
	{belfry.WithKind("SpeakerStatus"), "speakerstatuses", "", true, shelfOf(func(s *store) *[]*v1beta1.SpeakerStatus { return &s.objects.Speakers })},
	{coordinationv1.SchemeGroupVersion.WithKind("Lease"), "leases", lease, false, shelfOf(func(s *store) *[]*coordinationv1.Lease { return &s.leases })},
	{appsv1.SchemeGroupVersion.WithKind("DaemonSet"), "daemonsets", "", false, shelfOf(func(s *store) *[]*appsv1.DaemonSet { return &s.daemonSets })},
	{appsv1.SchemeGroupVersion.WithKind("Deployment"), "deployments", "", false, shelfOf(func(s *store) *[]*appsv1.Deployment { return &s.deployments })},
	{core.WithKind("ConfigMap"), "configmaps", "", false, shelfOf(func(s *store) *[]*corev1.ConfigMap { return &s.configMaps })},
	{eventsv1.SchemeGroupVersion.WithKind("Event"), "events", "", false, shelfOf(func(s *store) *[]*eventsv1.Event { return &s.events })},
}

// kindOf returns the index of the kind of a resource.
func kindOf(resource string) int {
	return slices.IndexFunc(kinds, func(k kind) bool { return k.resource == resource })
}

// A store has the objects that were read, of all kinds.
type store struct {
	objects     world.Objects
	networks    []*network
	leases      []*coordinationv1.Lease
	daemonSets  []*appsv1.DaemonSet
	deployments []*appsv1.Deployment
	configMaps  []*corev1.ConfigMap
	events      []*eventsv1.Event
	// others are objects of other load balancers.
	others []migrate.Object
	// uninstalled is set when Belfry need not be installed.
	uninstalled bool
	// at is where in its list an object is.
	at map[string]int
	// unread says which kinds could not be read and why.
	unread []string
	// versions are the resource versions of the lists that were read, by resource.
	versions map[string]string
}

// world joins what was read.
func (s *store) world(settings world.Settings, now time.Time) *world.World {
	o := s.objects
	for _, n := range s.networks {
		o.Networks = append(o.Networks, objects.Network(n.Name, n.Spec.CIDRs))
	}
	for _, l := range s.leases {
		if l.Name != lease {
			continue
		}
		o.Leader = &world.Leader{}
		if l.Spec.HolderIdentity != nil {
			o.Leader.Holder = *l.Spec.HolderIdentity
		}
		if l.Spec.RenewTime != nil {
			o.Leader.Renewed = l.Spec.RenewTime.Time
		}
		if l.Spec.LeaseDurationSeconds != nil {
			o.Leader.For = time.Duration(*l.Spec.LeaseDurationSeconds) * time.Second
		}
	}
	return world.New(o, settings, now)
}

// add takes an object from its JSON. Kinds that are not read are passed over, and lists
// taken apart.
func (s *store) add(body []byte) error {
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return err
	}
	if head.Items != nil {
		of := strings.TrimSuffix(head.Kind, "List")
		for _, item := range head.Items {
			if err := s.addAs(head.APIVersion, of, item); err != nil {
				return err
			}
		}
		return nil
	}
	if head.Kind == "" {
		return errors.New("an object without a kind")
	}
	return s.addAs(head.APIVersion, head.Kind, body)
}

// addAs takes an object whose kind its list says, unless it says so itself.
func (s *store) addAs(apiVersion, of string, body []byte) error {
	if of == "" {
		return s.add(body)
	}
	if slices.ContainsFunc(migrate.Sources, func(source migrate.Source) bool { return source.Of(apiVersion) && source.Reads(of) }) {
		return s.addOther(apiVersion, of, body)
	}
	for _, k := range kinds {
		if k.Kind == of && k.GroupVersion().String() == apiVersion {
			if err := k.put(s, body); err != nil {
				return fmt.Errorf("%s: %w", of, err)
			}
			return nil
		}
	}
	return nil
}

// readFiles reads the objects in a file, in a bug report, or in a directory of files, YAML
// and JSON; "-" is standard input.
func readFiles(s *store, path string, stdin io.Reader) error {
	if path == "-" {
		return readDocuments(s, path, stdin)
	}
	found := 0
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		archived := slices.Contains([]string{".gz", ".tgz"}, filepath.Ext(name))
		if name != path && !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			return nil
		}
		found++
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if archived {
			return readReport(s, name, f)
		}
		return readDocuments(s, name, f)
	})
	if err == nil && found == 0 {
		err = fmt.Errorf("%s: no file of YAML or JSON", path)
	}
	return err
}

func readDocuments(s *store, name string, r io.Reader) error {
	in := bufio.NewReaderSize(r, 1<<16)
	first, _ := in.Peek(1)
	if bytes.Equal(first, []byte("{")) {
		for dec := json.NewDecoder(in); ; {
			var body json.RawMessage
			if err := dec.Decode(&body); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := s.add(body); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for docs := utilyaml.NewYAMLReader(in); ; {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		body, err := yaml.YAMLToJSON(doc)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if bytes.Equal(bytes.TrimSpace(body), []byte("null")) {
			continue // a document of comments
		}
		if err := s.add(body); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// perPage is how many objects are listed at a time, as kubectl does.
const perPage = "500"

// path is where the API server has the objects of a kind, or the one that is read.
func (k kind) path(namespace string) string {
	path := "/apis/" + k.GroupVersion().String()
	if k.Group == "" {
		path = "/api/" + k.Version
	}
	if k.only != "" {
		return path + "/namespaces/" + namespace + "/" + k.resource + "/" + k.only
	}
	return path + "/" + k.resource
}

// readCluster reads the objects of a cluster, all kinds at once. Kinds that it may not
// read and need not, it notes.
func readCluster(ctx context.Context, s *store, client rest.Interface, namespace string, which func(kind) bool) error {
	var (
		entering sync.Mutex
		reading  sync.WaitGroup
	)
	failed, versions := make([]error, len(kinds)), make([]string, len(kinds))
	for i, k := range kinds {
		if !which(k) {
			continue
		}
		enter := func(body []byte) error {
			entering.Lock()
			defer entering.Unlock()
			return k.put(s, body)
		}
		reading.Go(func() {
			if k.only == "" {
				versions[i], failed[i] = pages(ctx, client, k.path(namespace), enter)
			} else if body, err := get(ctx, client, k.path(namespace)); err != nil {
				failed[i] = err
			} else {
				failed[i] = enter(body)
			}
		})
	}
	reading.Wait()
	s.versions = map[string]string{}
	for i, err := range failed {
		k := kinds[i]
		s.versions[k.resource] = versions[i]
		switch {
		case err == nil:
		case s.uninstalled && k.Group == belfry.Group && apierrors.IsNotFound(err):
		case k.only != "" && apierrors.IsNotFound(err):
			s.leases = append(s.leases, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: k.only}}) // nobody ever held it
		case !k.need && (apierrors.IsForbidden(err) || apierrors.IsNotFound(err)):
			s.unread = append(s.unread, k.resource+": "+err.Error())
		default:
			return cannotRead(k, err)
		}
	}
	return nil
}

// get returns what the API server has at a path.
func get(ctx context.Context, client rest.Interface, path string, parameters ...string) ([]byte, error) {
	ask := client.Get().AbsPath(path)
	for i := 0; i+1 < len(parameters); i += 2 {
		ask.Param(parameters[i], parameters[i+1])
	}
	answer := ask.Do(ctx)
	if err := answer.Error(); err != nil {
		return nil, err
	}
	return answer.Raw()
}

// pages hands on each object of the list at a path, and returns the version of the list.
func pages(ctx context.Context, client rest.Interface, path string, each func(body []byte) error, parameters ...string) (version string, err error) {
	for next := ""; ; {
		body, err := get(ctx, client, path, append([]string{"limit", perPage, "continue", next}, parameters...)...)
		if err != nil {
			return "", err
		}
		var list struct {
			Metadata struct {
				Continue        string `json:"continue"`
				ResourceVersion string `json:"resourceVersion"`
			} `json:"metadata"`
			Items []json.RawMessage `json:"items"`
		}
		if err := json.Unmarshal(body, &list); err != nil {
			return "", err
		}
		for _, item := range list.Items {
			if err := each(item); err != nil {
				return "", err
			}
		}
		if next = list.Metadata.Continue; next == "" {
			return list.Metadata.ResourceVersion, nil
		}
	}
}

// moment is the last time that the objects of a dump tell of: the dump is as old as that.
func (s *store) moment() (latest time.Time) {
	note := func(t time.Time) {
		if t.After(latest) {
			latest = t
		}
	}
	for _, l := range s.leases {
		if l.Spec.RenewTime != nil {
			note(l.Spec.RenewTime.Time)
		}
	}
	for _, o := range s.objects.Services {
		note(o.CreationTimestamp.Time)
		for _, c := range o.Status.Conditions {
			note(c.LastTransitionTime.Time)
		}
	}
	for _, o := range s.objects.Speakers {
		for _, t := range o.Status.Layer2.Transitions {
			note(t.Since.Time)
		}
		for _, b := range o.Status.BGP.Sessions {
			if b.Since != nil {
				note(b.Since.Time)
			}
		}
	}
	for _, o := range s.objects.Nodes {
		for _, c := range o.Status.Conditions {
			note(c.LastTransitionTime.Time)
		}
	}
	return latest
}

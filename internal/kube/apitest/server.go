package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	wholejson "k8s.io/apimachinery/pkg/util/json" // keeps whole numbers whole
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	"github.com/belfrylb/belfry/api/v1beta1"
)

// An Object is an object of the API.
type Object interface {
	runtime.Object
	metav1.Object
}

// A Write is what somebody asks of a Server.
type Write struct {
	// Verb is create, update or patch, Resource as in a path, Name empty for what
	// is created.
	Verb, Resource, Namespace, Name string
	// Body is what was sent.
	Body []byte
}

// String shows a write in short, such as "patch services default/web".
func (w Write) String() string {
	name := w.Name
	if w.Namespace != "" {
		name = w.Namespace + "/" + w.Name
	}
	return w.Verb + " " + w.Resource + " " + name
}

// A Server keeps objects.
type Server struct {
	mu      sync.Mutex
	version int
	objects map[string]map[string]fields // by resource, then by namespace and name
	watches map[*stream]struct{}
	writes  []Write
	before  func(Write) *metav1.Status
}

// fields are an object as JSON has it.
type fields = map[string]any

// New returns a Server without objects.
func New() *Server {
	return &Server{objects: map[string]map[string]fields{}, watches: map[*stream]struct{}{}, version: 100}
}

// Config is how clients reach the server.
func (s *Server) Config() *rest.Config {
	return &rest.Config{Host: "http://apitest", Transport: s}
}

// Before has a function asked before each write. What it returns is the answer
// in place of the write; nil lets it happen.
func (s *Server) Before(ask func(Write) *metav1.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = ask
}

// Writes returns the writes that happened since it was last asked.
func (s *Server) Writes() []Write {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.writes
	s.writes = nil
	return out
}

// Refusal is an answer to [Server.Before].
func Refusal(code int, reason metav1.StatusReason) *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: string(reason),
	}
}

var (
	scheme = runtime.NewScheme()
	decode = serializer.NewCodecFactory(scheme).UniversalDeserializer()
)

func init() {
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme, networkingv1.AddToScheme, coordinationv1.AddToScheme, v1beta1.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
}

// resources are the kinds that are served, by their plural.
var resources = map[string]schema.GroupVersionKind{
	"services":          corev1.SchemeGroupVersion.WithKind("Service"),
	"nodes":             corev1.SchemeGroupVersion.WithKind("Node"),
	"namespaces":        corev1.SchemeGroupVersion.WithKind("Namespace"),
	"secrets":           corev1.SchemeGroupVersion.WithKind("Secret"),
	"endpointslices":    discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
	"events":            eventsv1.SchemeGroupVersion.WithKind("Event"),
	"servicecidrs":      networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"),
	"leases":            coordinationv1.SchemeGroupVersion.WithKind("Lease"),
	"ipaddresspools":    v1beta1.SchemeGroupVersion.WithKind("IPAddressPool"),
	"l2advertisements":  v1beta1.SchemeGroupVersion.WithKind("L2Advertisement"),
	"bgpadvertisements": v1beta1.SchemeGroupVersion.WithKind("BGPAdvertisement"),
	"bgppeers":          v1beta1.SchemeGroupVersion.WithKind("BGPPeer"),
	"bfdprofiles":       v1beta1.SchemeGroupVersion.WithKind("BFDProfile"),
	"communities":       v1beta1.SchemeGroupVersion.WithKind("Community"),
	"speakerstatuses":   v1beta1.SchemeGroupVersion.WithKind("SpeakerStatus"),
}

func resourceOf(o runtime.Object) string {
	for resource, gvk := range resources {
		if t := scheme.KnownTypes(gvk.GroupVersion())[gvk.Kind]; t == reflect.TypeOf(o).Elem() {
			return resource
		}
	}
	panic(fmt.Sprintf("apitest serves no %T", o))
}

func toFields(o any) fields {
	text, err := json.Marshal(o)
	utilruntime.Must(err)
	out := fields{}
	utilruntime.Must(wholejson.Unmarshal(text, &out))
	return out
}

// metadata is that of an object.
func metadata(f fields) fields {
	m, _ := f["metadata"].(fields)
	if m == nil {
		m = fields{}
		f["metadata"] = m
	}
	return m
}

func text(f fields, key string) string {
	s, _ := f[key].(string)
	return s
}

// Put creates an object, or replaces it whatever version it has, as a person
// does. It returns what is kept.
func Put[T Object](s *Server, o T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	resource := resourceOf(o)
	f := toFields(o)
	return into(s.store(resource, key(o.GetNamespace(), o.GetName()), f), o.DeepCopyObject().(T))
}

// Get reads an object of the type, namespace and name that o has, or reports
// that there is none.
func Get[T Object](s *Server, o T) (T, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.objects[resourceOf(o)][key(o.GetNamespace(), o.GetName())]
	if !ok {
		return o, false
	}
	return into(f, reflect.New(reflect.TypeOf(o).Elem()).Interface().(T)), true
}

// List reads all objects of the type that o has, by name.
func List[T Object](s *Server, o T) []T {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []T
	all := s.objects[resourceOf(o)]
	for _, k := range slices.Sorted(maps.Keys(all)) {
		out = append(out, into(all[k], reflect.New(reflect.TypeOf(o).Elem()).Interface().(T)))
	}
	return out
}

// Delete deletes an object: at once, or as soon as it has no finalizer.
func (s *Server) Delete(o Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resource, k := resourceOf(o), key(o.GetNamespace(), o.GetName())
	f := s.objects[resource][k]
	if f == nil {
		return
	}
	if list, _ := metadata(f)["finalizers"].([]any); len(list) == 0 {
		s.remove(resource, k)
		return
	}
	f = toFields(f)
	metadata(f)["deletionTimestamp"] = metav1.Now().UTC().Format(time.RFC3339)
	s.store(resource, k, f)
}

func into[T any](f fields, o T) T {
	text, err := json.Marshal(f)
	utilruntime.Must(err)
	utilruntime.Must(json.Unmarshal(text, o))
	return o
}

func key(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// store keeps an object under a new version and tells those who watch.
func (s *Server) store(resource, k string, f fields) fields {
	was := s.objects[resource][k]
	m := metadata(f)
	s.version++
	generation := int64(1)
	if was == nil {
		m["uid"] = fmt.Sprintf("uid-%d", s.version)
		if text(m, "creationTimestamp") == "" {
			m["creationTimestamp"] = metav1.Now().UTC().Format(time.RFC3339)
		}
	} else {
		before := metadata(was)
		m["uid"], m["creationTimestamp"] = before["uid"], before["creationTimestamp"]
		generation, _ = before["generation"].(int64)
		if !reflect.DeepEqual(was["spec"], f["spec"]) {
			generation++
		}
	}
	m["generation"] = generation
	m["resourceVersion"] = strconv.Itoa(s.version)
	gvk := resources[resource]
	f["apiVersion"], f["kind"] = gvk.GroupVersion().String(), gvk.Kind
	if list, _ := m["finalizers"].([]any); len(list) == 0 && m["deletionTimestamp"] != nil {
		if was != nil {
			s.remove(resource, k)
		}
		return f
	}
	if s.objects[resource] == nil {
		s.objects[resource] = map[string]fields{}
	}
	s.objects[resource][k] = f
	for w := range s.watches {
		w.changed(resource, was, f)
	}
	return f
}

func (s *Server) remove(resource, k string) {
	was := s.objects[resource][k]
	delete(s.objects[resource], k)
	s.version++
	gone := toFields(was)
	metadata(gone)["resourceVersion"] = strconv.Itoa(s.version)
	for w := range s.watches {
		if w.resource == resource && w.selects(was) {
			w.send(watch.Deleted, gone)
		}
	}
}

// RoundTrip answers a request.
func (s *Server) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	w := Write{}
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if parts[0] == "apis" {
		parts = parts[3:]
	} else {
		parts = parts[2:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		w.Namespace, parts = parts[1], parts[2:]
	}
	w.Resource = parts[0]
	if len(parts) > 1 {
		w.Name = parts[1]
	}
	if r.Body != nil {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		w.Body = body
	}
	if _, served := resources[w.Resource]; !served {
		return Answer(http.StatusNotFound, Refusal(http.StatusNotFound, metav1.StatusReasonNotFound)), nil
	}
	if r.Method == http.MethodGet {
		return s.read(r, w)
	}
	w.Verb = map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch"}[r.Method]
	s.mu.Lock()
	ask := s.before
	s.mu.Unlock()
	if ask != nil {
		if status := ask(w); status != nil {
			return Answer(int(status.Code), status), nil
		}
	}
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, status := s.write(w, r.Header.Get("Content-Type"))
	if status != nil {
		return Answer(int(status.Code), status), nil
	}
	s.writes = append(s.writes, w)
	return Answer(http.StatusOK, f), nil
}

func (s *Server) write(w Write, contentType string) (fields, *metav1.Status) {
	if w.Verb != "patch" {
		o, _, err := decode.Decode(w.Body, nil, nil)
		if err != nil {
			return nil, Refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest)
		}
		name, version := o.(metav1.Object).GetName(), o.(metav1.Object).GetResourceVersion()
		switch was, exists := s.objects[w.Resource][key(w.Namespace, name)]; {
		case exists && w.Verb == "create":
			return nil, Refusal(http.StatusConflict, metav1.StatusReasonAlreadyExists)
		case !exists && w.Verb == "update":
			return nil, Refusal(http.StatusNotFound, metav1.StatusReasonNotFound)
		case exists && version != "" && version != text(metadata(was), "resourceVersion"):
			return nil, Refusal(http.StatusConflict, metav1.StatusReasonConflict)
		}
		return s.store(w.Resource, key(w.Namespace, name), toFields(o)), nil
	}
	was := s.objects[w.Resource][key(w.Namespace, w.Name)]
	if was == nil {
		return nil, Refusal(http.StatusNotFound, metav1.StatusReasonNotFound)
	}
	patch := fields{}
	if err := wholejson.Unmarshal(w.Body, &patch); err != nil {
		return nil, Refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest)
	}
	for _, must := range []string{"uid", "resourceVersion"} {
		have, want := text(metadata(was), must), text(metadata(patch), must)
		if want == "" || want == have {
			continue
		}
		status := Refusal(http.StatusConflict, metav1.StatusReasonConflict)
		status.Details = &metav1.StatusDetails{Causes: []metav1.StatusCause{{Field: "metadata." + must}}}
		return nil, status
	}
	is := toFields(was)
	if contentType == "application/strategic-merge-patch+json" {
		typed, err := scheme.New(resources[w.Resource])
		utilruntime.Must(err)
		if is, err = strategicpatch.StrategicMergeMapPatch(is, patch, typed); err != nil {
			return nil, Refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest)
		}
	} else {
		merge(is, patch)
	}
	return s.store(w.Resource, key(w.Namespace, w.Name), toFields(is)), nil
}

// merge applies a merge patch (RFC 7386).
func merge(to, patch fields) {
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(to, k)
		case fields:
			below, ok := to[k].(fields)
			if !ok {
				below = fields{}
				to[k] = below
			}
			merge(below, v)
		default:
			to[k] = v
		}
	}
}

// Answer is an answer of the API server.
func Answer(code int, o any) *http.Response {
	text, err := json.Marshal(o)
	utilruntime.Must(err)
	return &http.Response{
		StatusCode: code, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(text)),
	}
}

package kube

import (
	"fmt"
	"log/slog"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/belfrylb/belfry/internal/kube/client/versioned/typed/api/v1beta1"
)

// Clients are the API clients of a binary.
type Clients struct {
	// Core is for Kubernetes' own kinds, spoken in protobuf.
	Core *CoreClient
	// Own is for the kinds of group belfry.dev.
	Own OwnClient
}

// An OwnClient is what we use of the clients of our own kinds.
type OwnClient interface {
	BelfryV1beta1() v1beta1.BelfryV1beta1Interface
}

// LoadConfig reads a kubeconfig file, or takes the Pod's own credentials when
// path is empty.
func LoadConfig(path string) (*rest.Config, error) {
	if path == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", path)
}

// NewClients makes the clients of a binary that calls itself userAgent.
//
// They limit no rates: the API server has priority and fairness for that, and a
// client that queues its own requests delays the urgent behind the many. What
// bounds us is how many requests we have in flight.
func NewClients(config *rest.Config, userAgent string) (Clients, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = userAgent
	config.QPS = -1
	own, err := v1beta1.NewForConfig(config)
	if err != nil {
		return Clients{}, fmt.Errorf("client for %s: %w", config.Host, err)
	}
	core, err := NewCoreClient(config)
	if err != nil {
		return Clients{}, fmt.Errorf("client for %s: %w", config.Host, err)
	}
	return Clients{Core: core, Own: ownClient{own}}, nil
}

// An ownClient is an [OwnClient].
type ownClient struct{ belfry *v1beta1.BelfryV1beta1Client }

func (c ownClient) BelfryV1beta1() v1beta1.BelfryV1beta1Interface { return c.belfry }

// The kinds of Kubernetes that we use, and nothing else. client-go's own clients
// know all kinds of all groups, whichever one imports: a quarter of a binary,
// and of its memory when idle.
var (
	scheme    = runtime.NewScheme()
	codecs    = serializer.NewCodecFactory(scheme)
	parameter = runtime.NewParameterCodec(scheme)
)

func init() {
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, eventsv1.AddToScheme, coordinationv1.AddToScheme,
		authenticationv1.AddToScheme, authorizationv1.AddToScheme,
	} {
		utilruntime.Must(add(scheme))
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
}

// A CoreClient is a client of Kubernetes' own kinds. Its methods return clients
// of one kind, in one namespace or, by an empty name, in all.
type CoreClient struct {
	core, discovery, events, coordination rest.Interface
	authentication, authorization         rest.Interface
}

// NewCoreClient makes a CoreClient.
func NewCoreClient(config *rest.Config) (*CoreClient, error) {
	c := &CoreClient{}
	for _, g := range []struct {
		client *rest.Interface
		path   string
		group  schema.GroupVersion
	}{
		{&c.core, "/api", corev1.SchemeGroupVersion},
		{&c.discovery, "/apis", discoveryv1.SchemeGroupVersion},
		{&c.events, "/apis", eventsv1.SchemeGroupVersion},
		{&c.coordination, "/apis", coordinationv1.SchemeGroupVersion},
		{&c.authentication, "/apis", authenticationv1.SchemeGroupVersion},
		{&c.authorization, "/apis", authorizationv1.SchemeGroupVersion},
	} {
		of := rest.CopyConfig(config)
		of.ContentType = "application/vnd.kubernetes.protobuf"
		of.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
		of.APIPath, of.GroupVersion, of.NegotiatedSerializer = g.path, &g.group, codecs.WithoutConversion()
		client, err := rest.RESTClientFor(of)
		if err != nil {
			return nil, err
		}
		*g.client = client
	}
	return c, nil
}

// Services are Services.
func (c *CoreClient) Services(namespace string) *gentype.ClientWithList[*corev1.Service, *corev1.ServiceList] {
	return kind[corev1.Service, corev1.ServiceList](c.core, "services", namespace)
}

// Namespaces are Namespaces.
func (c *CoreClient) Namespaces() *gentype.ClientWithList[*corev1.Namespace, *corev1.NamespaceList] {
	return kind[corev1.Namespace, corev1.NamespaceList](c.core, "namespaces", "")
}

// Nodes are Nodes.
func (c *CoreClient) Nodes() *gentype.ClientWithList[*corev1.Node, *corev1.NodeList] {
	return kind[corev1.Node, corev1.NodeList](c.core, "nodes", "")
}

// Secrets are Secrets.
func (c *CoreClient) Secrets(namespace string) *gentype.ClientWithList[*corev1.Secret, *corev1.SecretList] {
	return kind[corev1.Secret, corev1.SecretList](c.core, "secrets", namespace)
}

// EndpointSlices are EndpointSlices.
func (c *CoreClient) EndpointSlices(namespace string) *gentype.ClientWithList[*discoveryv1.EndpointSlice, *discoveryv1.EndpointSliceList] {
	return kind[discoveryv1.EndpointSlice, discoveryv1.EndpointSliceList](c.discovery, "endpointslices", namespace)
}

// Events are Events, of group events.k8s.io.
func (c *CoreClient) Events(namespace string) *gentype.ClientWithList[*eventsv1.Event, *eventsv1.EventList] {
	return kind[eventsv1.Event, eventsv1.EventList](c.events, "events", namespace)
}

// Leases are Leases.
func (c *CoreClient) Leases(namespace string) *gentype.ClientWithList[*coordinationv1.Lease, *coordinationv1.LeaseList] {
	return kind[coordinationv1.Lease, coordinationv1.LeaseList](c.coordination, "leases", namespace)
}

// TokenReviews ask whose a token is; none is ever kept.
func (c *CoreClient) TokenReviews() *gentype.Client[*authenticationv1.TokenReview] {
	return gentype.NewClient("tokenreviews", c.authentication, parameter, "", func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} })
}

// SubjectAccessReviews ask what somebody may do; none is ever kept.
func (c *CoreClient) SubjectAccessReviews() *gentype.Client[*authorizationv1.SubjectAccessReview] {
	return gentype.NewClient("subjectaccessreviews", c.authorization, parameter, "", func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} })
}

// kind makes the client of one kind of objects.
func kind[T, L any, PT interface {
	*T
	runtime.Object
	metav1.Object
}, PL interface {
	*L
	runtime.Object
}](c rest.Interface, resource, namespace string) *gentype.ClientWithList[PT, PL] {
	return gentype.NewClientWithList(resource, c, parameter, namespace, func() PT { return PT(new(T)) }, func() PL { return PL(new(L)) })
}

// LogTo makes client-go log to a logger.
func LogTo(log *slog.Logger) {
	klog.SetLogger(logr.FromSlogHandler(log.Handler()))
}

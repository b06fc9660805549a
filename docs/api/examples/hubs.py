from milonga.client import Client

hub = Client()

# %% ListHubs
answer = hub.hubs.list_hubs()
for each in answer.hubs:
    print(each.name, each.version, each.state, each.grpc)

const tools = document.getElementById('tools'), list = document.getElementById('clips')
const clips = [...list.children], buttons = [...tools.querySelectorAll('button')], order = tools.querySelector('select')
const name = clip => clip.querySelector('h3').textContent
const orders = {
  place: (a, b) => a.id.slice(1) - b.id.slice(1),
  name: (a, b) => name(a).localeCompare(name(b), undefined, {numeric: true}),
  long: (a, b) => b.dataset.s - a.dataset.s,
  short: (a, b) => a.dataset.s - b.dataset.s,
}
order.onchange = () => list.append(...clips.sort(orders[order.value]))
for (const button of buttons) button.onclick = () => {
  for (const other of buttons) other.setAttribute('aria-pressed', other === button)
  for (const clip of clips) clip.hidden = button.value && !(clip.dataset.f ?? '').split(' ').includes(button.value)
  tools.querySelector('[aria-live]').textContent = clips.filter(clip => !clip.hidden).length + ' shown'
}
onhashchange = () => {
  const clip = document.getElementById(location.hash.slice(1))
  if (clip?.hidden) buttons[0].click()
  clip?.scrollIntoView()
}
tools.hidden = false

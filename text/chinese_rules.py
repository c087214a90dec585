"""The table of what wetext's Chinese grammar reads wrongly: codes, ranges, money, dates, units, dots of Latin words.

No \\b and no \\w in a pattern: to Python a Chinese character is a letter too.
"""

import re

from text.chinese import (
    CURRENCIES,
    DIGITS,
    abbreviation,
    cardinal,
    code,
    digits,
    fraction,
    money,
    ratio,
    span,
    without_commas,
)
from text.rules import Rule
from text.signs import ADDRESS, sign_rules, spoken_address
from text.units import CHINESE_UNIT, NUMBER, chinese_unit

# A number is a code behind one of these, with or without what may stand between, or before one of _SERVICES
_CODES = (
    "身份证|(?:验证|校验|动态|激活|邀请|取件|提货|兑换|识别|提取|确认|邮政编|条形?|区|代)码|密码|口令|邮编|编码|号码|账户|帐户|QQ|微信|"
    "(?:[单票证书学工税编房间件案图版航序列批车牌区船桌楼会员客户卡账帐尾代]|手机|电话)号|订单|车牌|航班|电话|手机|座机|热线|客服|传真|"
    "分机|转|总机|短信|会议ID|报警|急救|火警|救护|匪警|查询台|驗證碼|密碼|電話|熱線|帳號|號碼|分機|報警"
)
_DIAL = "拨打?|打(?![折工到出])|致电|呼叫|联系|叫|喊|找|拨通|撥打?|发送?(?:短信|消息|验证码|[A-Za-z0-9]+)[到至给]"
_BETWEEN = r"(?:号码|号|码|后[三四六]位|是|为|分别|电话|热线|客服|急救|报警|了|个|通|过|的|请|就|给|到|[:： ])*"
_SERVICES = "热线|客服|急救|救护|报警|火警|消防|接警|指挥中心|民警|短信|网站|官网|平台|打电话|熱線|報警"
# ... but an amount before one of these
_COUNTED = (
    "年月日时点分秒天周个個人次元块塊角毛条條位部台臺名万萬亿億千百多余餘岁歲米斤克度倍届款张張份步架通家只隻件套本辆輛页"
    "頁种種字公副场場篇亩毫下顿回声遍枚支根瓶杯碗箱包吨厘英平立间間户笔封段层級级瓦伏吋寸起例组所项項颗粒批座站圈趟针轮股"
    "盒盘桶袋把匹头棵片幢栋道小期路班节首幅门盏艘排串题摄海光%‰℃°"
)
_NO_AMOUNT = rf"(?! ?\d|[.,:/~-]\d| ?[{_COUNTED}A-Za-z]|号(?!码)|[到至]\d)"
_LIST = r"(?:(?:、|，|,|和|或者?|及|/|还是)+\d{3,})*"
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"  # at the start of a number plate
_HAN = "\u4e00-\u9fff"
_SIGN = "|".join(map(re.escape, sorted(CURRENCIES, key=len, reverse=True)))
_PRICE = "元|块|圆|[美港日欧澳加]元|美金|英镑|新?台币|新加坡元"
_WON = "战胜|[击打]败|[获险大完]胜|不敌|惜败|落败|战平|领先|落后|取胜|横扫|打?[赢输]|[胜负平]"
_PRICED = (
    "(?<=[达约了本绩高低均价A-Za-z])|(?<=[价格分绩率均值数量本高低长重][是为])|(?<=[A-Za-z] )|(?<=[涨跌升降增减]到)"
)


# fmt: off
RULES = [
    Rule(rf"(?<=[\d%℃]) +(?=[{_HAN}])|(?<=[{_HAN}]) +(?=[\d¥￥$-])", "", "2024 年 7 月 4 日", "二零二四年七月四日", "5 kg"),
    Rule(ADDRESS, lambda match: spoken_address(match[0], "zh").translate(DIGITS),
         "上sina.com，写abc@163.com", "上sina点com，写abc艾特一六三点com", "OK.Then"),
    *sign_rules("zh"),
    # codes: digit by digit
    Rule(rf"(?:{_CODES}){_BETWEEN}[{_PROVINCES}]?[A-Za-z]{{0,4}}(\+?\d{{1,2}}[ -]?\d{{3,}}(?:[ -]?\d+)*[Xx]?{_LIST}|\d{{3}}[Xx]?{_LIST}){_NO_AMOUNT}", code,
         "验证码：483920，车牌京A12345", "验证码：四八三九二零，车牌京A幺二三四五", "手机5000元，电话费120"),
    Rule(rf"(?:{_DIAL}){_BETWEEN}(\d{{3,}}(?:-\d+)*{_LIST}){_NO_AMOUNT}", code,
         "快打120或119，拨10086", "快打幺二零或幺幺九，拨幺零零八六", "打了110分，打到120"),
    Rule(rf"(?<![\d.])(\d{{3,5}})(?={_SERVICES})", code, "12345热线，120急救车", "幺二三四五热线，幺二零急救车", "120台客服"),
    Rule(r"(?:分机|[\d零幺二三四五六七八九]转)号?(\d{2,})(?!\d)", code, "分机8012", "分机八零幺二", "转8次"),
    Rule(r"(?<![\d.,])(?<!\d )[1-9]\d{0,2}(?: \d{3})+(?![\d-]| ?\d|:\d)", lambda match: match[0].replace(" ", ""),
         "10 000元", "一万元", "1990 100"),
    Rule(r"(?<![\d.,A-Za-z-])((?:\+?86[ -]?)?1[3-9]\d[ -]\d{4}[ -]\d{4}|\+\d{2}[ -]?\d[\d -]{6,}\d|0\d{2,3} \d{7,8}"
         r"|[(（]0\d{2,3}[)）] ?\d{7,8}|[48]00[ -]\d{3}[ -]\d{4}|\d{4}(?: \d{4}){2,}|\d{13,})(?![\d-])", code,
         "138 1234 5678", "幺三八，幺二三四，五六七八", "8000 1000"),
    Rule(rf"(?<![A-Za-z\d])(?!{_SIGN})[A-Z]{{1,3}}(\d{{4,}})(?![\dA-Za-z]|[.,]\d|[{_COUNTED.replace('次', '')}])", code,
         "CA1234航班", "CA幺二三四航班", "RMB5000"),
    Rule(r"(?<![\d.-])\d+(?:-\d+)+(?=号?[室房])", lambda match: match[0].replace("-", "杠"),
         "3-2-501室", "三杠二杠五零幺室", "3-5间"),
    Rule(r"(?<![\d.,])(?:(?<=[在住到去进回是])\d{3,4}(?=房间)|\d{3,4}(?=号?房(?!间)|号房间|室(?![内外])))", code,
         "1101室，住在1506房间", "幺幺零幺室，住在幺五零六房间", "120室内，有120房间"),
    Rule(r"(?<![\d.,:/A-Za-z-])0\d{2,}(?![\d.,:/-]\d)", digits, "0012", "零零一二", "0.012"),
    # thousands, enumerations, money
    Rule(r"(?<![\d.,])(\d{1,3}(?:,\d{3}|，000)+)(\.(?:0[1-9]|1[0-2])(?![\d元块万亿]))?(?!,?\d)", without_commas,
         "3,050.12点", "三千零五十点一二点", "180，180斤"),
    Rule(r"(?<=\d)([,，])(?=(?:-|[¥￥$€£])?\d)", r"\1 ", "他有2，3个", "他有二，三个", "2、3"),
    Rule(rf"(?<![A-Za-z])({_SIGN}) ?({NUMBER})(?:[-~]({NUMBER}))?([百千万亿]+)?(?!\.?\d)({_PRICE})?", money,
         "¥5，$5.5万，US$100", "五元，五点五万美元，一百美元", "5美元"),
    Rule(rf"({NUMBER})([百千万亿]*) ?([$€£]|RMB|CNY|USD|HKD|EUR)(?![A-Za-z\d])", lambda m: m[1] + m[2] + CURRENCIES[m[3]],
         "100RMB", "一百元", "100RMBs"),
    Rule(r"(?<![\d.])(\d+)(?:\.00?|(\.\d)0)(?=[元块])", r"\1\2", "12.50元，9.00元", "十二点五元，九元", "12.05元"),
    # ranges and scores
    Rule(r"(?<!\d)([12]\d{3})[-~至到/]([12]\d{3}|\d\d)(?=学年|赛季|财年|年|[，。、；！？）)]|$)",
         lambda match: f"{match[1]}到{match[2]}".translate(DIGITS),
         "2019-2021年", "二零一九到二零二一年", "1990-5年"),
    Rule(r"(?<=\d[年月日号点时分秒元块万亿度岁米斤周楼层级%‰])[-~—](?=\d)", "到", "2点-3点", "两点到三点", "周五-5点"),
    Rule(rf"(\d ?([A-Za-z]+))[-~](?={NUMBER} ?\2(?![A-Za-z]))", r"\1到", "3kg-5kg", "三千克到五千克", "3a-5b"),
    Rule(rf"({NUMBER})[-~]({NUMBER}[%‰])", r"\1%到\2", "5-10%", "百分之五到百分之十", "5-10"),
    Rule(rf"(比分[是为：:]*)?(?<![\d.:-])(\d+)[-:](\d+)(?![\d.:-])(?(1)|(?=(?:的[总大]?比分)?(?:{_WON})))",
         lambda match: f"{match[1] or ''}{match[2]}比{match[3]}",
         "以3-0获胜，比分4-2", "以三比零获胜，比分四比二", "3-0次"),
    Rule(r"(?<![\d.:-])(\d+)-(\d+)(?=等于|是多少|得| ?=)", r"\1减\2", "10-3等于7", "十减三等于七", "10-3级"),
    Rule(rf"(?<![\d.:A-Za-z+*/×÷=-])({NUMBER})[-~]({NUMBER})(?![\d:/-])(?! ?[减加乘除])", span, "要2-3次", "要两到三次", "5-3"),
    Rule(r"(?<=[A-Z])-(?=\d)|(?<=[A-Za-z]{2})-(?=\d)|(?<=[歼轰运直征])-(?=\d)", "", "COVID-19，歼-20", "COVID十九，歼二十", "得了-3分"),
    # clocks and dates
    Rule(r"(?<![\d:.])([01]?\d|2[0-4]):([0-5]\d)(?=分(?![钟成账装配摊]|之[一二三四五六七八九十\d]))", r"\1点\2",
         "8:05分到站，10:15分开始", "八点零五分到站，十点十五分开始", "6:4分成，25:20分"),
    Rule(r"(?<![\d:.])0:(?:00|([0-5]\d))(?![\d:])", lambda match: f"0点{match[1]}分" if match[1] else "0点",
         "凌晨0:05，晚上0:00", "凌晨零点零五分，晚上零点", "10:05"),
    Rule(r"(?<![\d.])0([1-9])(?=月)|(?<=月)0([1-9])(?=[日号])", lambda match: match[1] or match[2],
         "07月04日", "七月四日", "10月"),
    Rule(r"(?<!\d)(?!2000)(?:19|20)\d\d(?=年[以之]?[前后])|(?<![\d.])[0156789]5(?=后(?![天年个的来卫面]))", digits,
         "2005年后，95后", "二零零五年后，九五后", "95后来"),
    Rule(r"(?<!\d)([3-9])000(?=年)|(?<!\d)([12])000(?=年的?(?:悠久)?(?:历史|文明))", lambda m: f"{m[1] or m[2]}千",
         "5000年", "五千年", "2000年"),
    # decimals that are no dates, versions, shares, units
    Rule(rf"(?:{_PRICED})(1[0-2])\.(\d\d?)(?=[，。、；！？）)和与或版]|$)",
         lambda match: f"{match[1]}点{match[2].translate(DIGITS)}",
         "价格是11.5", "价格是十一点五", "在12.5举行"),
    Rule(r"(?<![\d.])(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?!\.?\d)", r"\1点\2点\3", "5.1.2版", "五点一点二版", "192.168.0.1"),
    Rule(rf"(±?)({NUMBER})‰|±({NUMBER})%", lambda m: f"正负百分之{m[3]}" if m[3] else f"{'正负' if m[1] else ''}千分之{m[2]}",
         "50‰，±5%", "千分之五十，正负百分之五", "5%"),
    Rule(CHINESE_UNIT, chinese_unit, "120mmHg，6.1mmol/L，10 kWh", "一百二十毫米汞柱，六点一毫摩尔每升，十千瓦时", "30 seconds，5mins，k8s，5G"),
    Rule(r"\^(-?\d+)", r"的\1次方", "3^2", "三的二次方", "a^b"),
    Rule(r"(?<![\d/.])(\d{2,3})/(\d{2,3})(?![\d/.])", ratio, "血压120/80", "血压一百二十比八十", "25/12，12/25"),
    Rule(rf"({NUMBER}次)/分钟?", r"每分钟\1", "100次/分", "每分钟一百次", "100/分"),
    Rule(r"(?<!\d)(\d+)'(\d{1,2})\"", r"\1分\2秒", "跑了3'20\"", "跑了三分二十秒", "3'a"),
    Rule(r"(?<=\d秒)\d\d(?!\d)|(?<=[A-Za-z]_)\d{2,}", digits, "9秒83", "九秒八三", "9秒8"),
    Rule(r"(?<=\d)w(?=\+)|(?<=\d\.\d)w(?![A-Za-z])|(?<=\d)w(?=粉丝|人|播放|阅读|点赞|[块元多个次])", "万",
         "1.2w粉丝", "一点二万粉丝", "5wifi"),
    Rule(r"(?<![\d.+])(\d*0|\d+(?:\.\d+)?[万亿千])\+(?![\d+])", r"\1多", "1000+人", "一千多人", "C++"),
    Rule(r"([图表]\d+)-(?=\d+(?![\d-]))", r"\1杠", "表4-1", "表四杠一", "4-1"),
    Rule(rf"(?<=[A-Za-z])\+(?=\d)|(?<=[{_HAN}])=(?=[{_HAN}\d])", lambda match: "加" if match[0] == "+" else "等于",
         "8GB+256GB，1升=2斤", "八GB加两百五十六GB，一升等于两斤", "C++"),
    Rule("([①-⑳])、?", lambda match: f"{ord(match[1]) - ord('①') + 1}、", "①准备", "一、准备", "1、"),
    Rule(r"(?<![\d/.A-Za-z])(?:(\d{1,3}) )?(\d{1,4})/(\d{1,4})(?![\d/.A-Za-z])", fraction,
         "3½小时，大约3/4", "三又二分之一小时，大约四分之三", "1/2/3"),
    # two of something
    Rule(r"(?<=月)2(?=[日号])|(?<![\d.])2(?=日(?:上午|下午|晚|凌晨|早|中午|电|讯))|(?<=[栋楼号幢座])2(?=单元)", "二",
         "2月2日，2日上午", "二月二日，二日上午", "2月22日"),
    Rule(r"第2(?!\d|\.\d)", "第二", "第2天", "第二天", "第22天"),
    Rule(r"(?<![\d.A-Za-z第/:-])2(?=[次件份台部条遍门倍](?!元|方|列车)|公斤|星期|年(?!级)|点(?!\d(?!\d|分)))", "两",
         "2次，2台，2点半", "两次，两台，两点半", "12次，G2次，2年级"),
    Rule(r"(?<![\d.A-Za-z第/:-])2到(?=\d+(?:\.\d+)?(?:[点次件份台部条遍门倍个天周人位名家斤米岁]|年(?!级)))", "两到", "2-3次", "两到三次", "2到3号"),
    # amounts that wetext takes for emergency and service numbers
    Rule(r"(?<![\d.,A-Za-z])(?:1[12]\d|[19]\d{4})(?![\d%.,/:-]*\d|%)", lambda match: cardinal(int(match[0])),
         "一共120台，共12306人次", "一共一百二十台，共一万二千三百零六人次", "120.5"),
    # Latin words: their dots end no sentence
    Rule(rf"(?<![A-Za-z])(?:(?:Mr|Mrs|Dr|Prof|No|no)\. ?(?=[A-Z\d{_HAN}])|(?:e\.g|i\.e)\.,? ?|Ph\.D\.?)", abbreviation,
         "No.15，Mr. Smith，e.g.苹果", "number十五，Mister Smith，例如苹果", "so no."),
    Rule(r"(?<![A-Za-z])(?:[A-Z]\.[ ]?){2,}(?![a-z])", lambda match: match[0].replace(".", ""),
         "U.S.A.的J. O. A.", "USA的J O A", "OK.A"),
    Rule(r"(?<![A-Za-z])(?:St|Jr|Sr|Ms|vs|etc|Inc|Ltd|Co|Corp|[Vv]ol|[Ff]ig|Ch|[Vv]er|pp?|[A-Z])\. ?(?=[A-Za-z0-9])",
         abbreviation,
         "Vol.3", "Vol三", "Vol3"),
    Rule(r"(?<=[A-Za-z0-9_])\.(?=[a-z]|[A-Z]{2})|\.(?=NET(?![A-Za-z]))", "点", "Node.js", "Node点js", "OK.Then"),
]
# fmt: on
